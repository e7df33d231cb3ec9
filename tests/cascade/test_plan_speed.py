"""Laws of the predicted step: its parts add up, and each setting moves the share of the peak."""

import pytest
import torch

from cascade.checkpoint.checkpoint_folder import folder_of, write_manifest
from cascade.checkpoint.manifest import Manifest
from cascade.doctor.expected import TITLES
from cascade.doctor.figure import Figure
from cascade.doctor.findings import Findings
from cascade.doctor.past import add_past
from cascade.doctor.speed import Rates
from cascade.doctor.work import Product, Work
from cascade.memory import Meter
from cascade.recall import recall
from tests.cascade.planning import FakeData, FakeSurvey, planned

GPU = ("trainer=gpu", "plan.device=h200", "plan.measure=false")
NET = ("stage.net.width=1024", "stage.net.depth=2", "stage.net.head_width=128")
SIZE = ("stage.target.frames=16", "stage.target.height=64", "stage.target.width=64")


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture
def time_of(config_of, known):
    """The figures of the predicted step of a small network on wide tokens; each planned once."""

    def make(*overrides):
        if overrides not in known:
            all_of_them = (*GPU, *NET, *SIZE, "stage.train.global_batch=8", *overrides)
            known[overrides] = planned(config_of("demo/base", *all_of_them)).figures["time"]
        return known[overrides]

    return make


def share(figures):
    return figures["share of peak, predicted"].value


def test_the_parts_add_up_to_the_step_of_all_micro_batches(time_of):
    for overrides in ((), ("trainer.accumulate_grad_batches=4",)):
        figures = time_of(*overrides)
        parts = [figures[f"of it {t}"].value for t in TITLES.values() if f"of it {t}" in figures]
        assert len(parts) >= 4
        assert sum(parts) == pytest.approx(figures["step, predicted"].value)
        assert all(one.how == "estimated" for name, one in figures.items() if "predicted" in name)
        assert 0 < share(figures) < 0.66


@pytest.mark.slow
def test_more_clips_a_step_raise_the_share_and_are_named_where_the_optimizer_is_large(time_of):
    few, more = time_of(), time_of("stage.train.global_batch=64")
    many = time_of("stage.train.global_batch=64", "trainer.accumulate_grad_batches=8")
    assert share(few) < share(many) < share(more)
    assert "global_batch" in few["raised by"].value
    assert "global_batch" not in many["raised by"].value
    once = "of it the optimizer"
    assert few[once].value == pytest.approx(many[once].value, rel=1e-6)


def test_compiled_blocks_raise_the_share_and_are_named_where_they_are_not(time_of):
    plain, compiled = time_of("stage.train.compile=false"), time_of()
    assert share(plain) < share(compiled)
    assert "stage.train.compile" in plain["raised by"].value
    assert "stage.train.compile" not in compiled["raised by"].value
    part = "of it elementwise kernels"
    assert plain[part].value > 1.5 * compiled[part].value
    assert plain["of it matrix products"].value == compiled["of it matrix products"].value


def test_a_narrower_network_has_a_lower_share_and_a_wider_one_is_advised(time_of):
    batch = "stage.train.global_batch=64"
    narrow = time_of(batch, "stage.net.width=512")
    assert share(narrow) < share(time_of(batch))
    assert "stage.net.width" in narrow["raised by"].value


def test_faster_memory_raises_the_share(time_of):
    assert share(time_of("plan.device=h100")) < share(time_of())


def test_a_kernel_bound_step_waits_for_launches(time_of):
    figures = time_of("stage.net.width=128", "stage.train.global_batch=1")
    assert figures["why not more"].value.startswith("waiting for launches")
    assert "larger micro batch" in figures["raised by"].value


def test_a_slow_loader_is_the_reason(config_of):
    config = config_of("demo/base", *GPU, "data.loading.num_workers=1")
    record = planned(config, FakeData((8, 16, 16), seconds=0.3), FakeSurvey())
    figures = record.figures["time"]
    assert figures["why not more"].value.startswith("waiting for data")
    assert figures["raised by"].value.startswith("data.loading.num_workers=")
    workers = figures["workers needed"].value
    step = figures["step, predicted"].value
    wait = figures["of it waiting for data"].value
    assert (workers - 1) * (step - wait) < step <= workers * (step - wait) * 1.01


def test_an_unknown_device_or_precision_has_no_predicted_time(config_of):
    unknown = ("plan.devices.l4.name=Unknown", "plan.device=l4")
    figures = planned(config_of("demo/base", *GPU, *unknown)).figures["time"]
    assert figures["step, predicted"].value is None
    assert "share of peak, predicted" not in figures


def test_wider_heads_and_larger_products_reach_more_of_the_peak():
    rates = Rates.of("NVIDIA H200", peak=989e12, bandwidth=4.8e12)
    wide, narrow = (Product("attention", 10**13, 1, head) for head in (128, 64))
    assert rates.seconds(wide) < rates.seconds(narrow)
    assert rates.seconds(Product("linear", 10**13, 1)) == pytest.approx(1e13 / 0.66 / 989e12)
    assert rates.seconds(Product("linear", 10**9, 10**10)) == pytest.approx(1e10 / 0.85 / 4.8e12)


def test_the_speed_of_a_run_on_the_planned_device_stands_beside_the_predicted(tmp_path):
    manifest = Manifest(
        **{name: {} for name in ("files", "shapes", "data", "config", "versions")},
        **dict.fromkeys(("stage", "strategy", "precision"), ""),
        **{"commit": None, "step": 10, "world": 1, "device": "NVIDIA H200"},
    )
    folder = folder_of(tmp_path, 10)
    (tmp_path / "metrics/version_0").mkdir(parents=True)
    folder.mkdir(parents=True)
    write_manifest(folder, manifest)
    rows = "step,throughput/steps_per_s\n5,1.0\n10,4.0\n15,4.0\n"
    (tmp_path / "metrics/version_0/metrics.csv").write_text(rows)
    others = (("H100", "1", False), ("200", "1", False), ("H200", "8", False))
    for device, ranks, found in (("H200", "1", True), *others):
        record = Findings(stage="demo/base", facts={"device": device, "ranks": ranks})
        record.add("time", {"step, predicted": Figure(0.125, "estimated", "s")})
        add_past(record, tmp_path)
        assert record.value("time", "step of the run") == (0.25 if found else None)
        assert record.value("time", "run / predicted") == (2 if found else None)


def test_a_run_that_logs_no_speed_adds_nothing(tmp_path):
    (tmp_path / "metrics/version_0").mkdir(parents=True)
    for rows in ("5,1.0\n10,0.0\n15,0.0\n", "5,nan\n", ""):
        text = f"step,throughput/steps_per_s\n{rows}"
        (tmp_path / "metrics/version_0/metrics.csv").write_text(text)
        record = Findings(stage="demo/base", facts={"device": "H200", "ranks": "1"})
        add_past(record, tmp_path)
        assert record.value("time", "step of the run") is None


# Counting.


def counted(steps, phase="backward"):
    """The work of `steps`; in the backward pass all operations are fused."""
    work, meter = Work(), Meter(block=64)
    meter.observe = work
    work.enter(phase)
    x, w = (torch.empty(256, 256, device="meta") for _ in range(2))
    with meter:
        steps(x, w)
    return work.parts[phase]


def test_operations_between_products_read_and_write_once():
    def steps(x, w):
        y = (x + 1).relu() * 2
        return y @ w

    part, size = counted(steps), 256 * 256 * 4
    assert (part.eager.kernels, part.eager.bytes) == (3, 6 * size)
    assert (part.fused.kernels, part.fused.bytes) == (1, 2 * size)
    assert list(part.products) == [Product("linear", 2 * 256**3, 3 * size)]
    assert counted(steps, "averages").fused.bytes == 6 * size  # not compiled


def test_what_two_fused_kernels_read_is_written_once():
    def steps(x, w):
        y = x + 1
        return y @ w, (y * 2) @ w

    size = 256 * 256 * 4
    # x read, y written; then y read, its double written.
    assert counted(steps).fused.bytes == 4 * size


def test_what_nothing_reads_is_not_written():
    assert counted(lambda x, _: x + 1).fused.bytes == 256 * 256 * 4


def described(out, given):
    """Shapes, strides, dtypes of an operation's results, and whether they share a storage."""
    storage = given.untyped_storage()._cdata
    return [
        (one.shape, one.stride(), one.dtype, one.untyped_storage()._cdata == storage)
        for one in ([out] if torch.is_tensor(out) else out)
    ]


def test_recalled_operations_give_what_torch_gives_in_new_storages():
    x = torch.empty(4, 6, 8, device="meta", dtype=torch.bfloat16).transpose(0, 1)
    aten = torch.ops.aten
    for func, *args in (
        (aten.mul.Tensor, x, 2),
        (aten.mul.Tensor, x, 2.5),
        (aten.div.Tensor, x.int(), 2),
        (aten.sum.dim_IntList, x, [-1]),
        (aten.native_layer_norm.default, x, [8], None, None, 1e-5),
        (aten.view.default, x.contiguous(), [24, 8]),
        (aten.add_.Tensor, x, 1),
        (aten.expand.default, x, [6, 4, 8]),
    ):
        for _ in range(2):
            assert described(recall(func, args, {}), args[0]) == described(func(*args), args[0])
