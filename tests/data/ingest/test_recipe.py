import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from cascade.entry import CONF
from data.ingest.recipe import difference
from data.ingest.work import Cluster


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("windows.max_s=1.5", "at least twice min_s, .* got max_s 1.5 and min_s 1"),
        ("windows.min_s=0", "windows.min_s must be more than 0"),
        ("filters.black=-0.1", "filters.black must be at least 0"),
        ("filters.text=0.2", "measures.text_side is null, so text is not measured"),
        ("encoding.short_side=99", "short_side must be even"),
        ("encoding.crf=60", "from 0 .lossless. to 51, got 60"),
        ("encoding.preset=quick", "preset must be one of ultrafast, .*got 'quick'"),
        ("packing.samples=0", "packing.samples must be more than 0"),
        ("+filters.blak=1", "unexpected keyword argument 'blak'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_name(make_recipe, override, said):
    with pytest.raises((ValueError, InstantiationException), match=said):
        make_recipe(override)


def test_a_difference_names_every_setting_that_changed(make_recipe):
    old, new = make_recipe().record(), make_recipe("filters.black=null", "shots.min_s=2").record()
    assert difference(old, old) == []
    assert difference(old, new) == [
        "filters.black was 0.5, now None",
        "shots.min_s was 0.5, now 2",
    ]


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_every_cluster_is_one(cluster):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("shards", overrides=["from=a", "to=b", f"cluster={cluster}"])
    assert isinstance(instantiate(cfg.cluster.shards, _convert_="all"), Cluster)
