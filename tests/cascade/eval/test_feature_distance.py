"""Distances between sets of videos: closed forms, the bias of few, names that say the recipe."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cascade.eval.feature_distance import FeatureDistance, Features, frechet, kernel
from cascade.eval.measure import Generated
from cascade.grid import Grid
from data.worlds.shapes import heldout_prompts
from data.worlds.truth import shapes_truth

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Metric `Kernel"),
]

GRID = Grid(frames=4, height=16, width=16, fps=4)


def gaussian(n, mean, scale, seed):
    """Features whose sample mean and covariance are exactly those asked for."""
    x = torch.randn(
        n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return x * torch.tensor(scale) + torch.tensor(mean)


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    one = gaussian(300, [0.0, 1.0, 2.0], [1.0, 2.0, 0.5], 0)
    two = gaussian(400, [0.5, 1.0, 1.0], [2.0, 1.0, 0.5], 1)
    wanted = 0.25 + 1.0 + (1 - 2) ** 2 + (2 - 1) ** 2
    assert frechet(one, two) == pytest.approx(wanted, abs=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_unbiased_and_the_frechet_distance_is_not():
    """Two draws of one distribution: the one stays at 0, the other falls with more of them."""

    def apart(n, distance):
        pairs = []
        for seed in range(8):
            own = torch.Generator().manual_seed(seed)
            pairs.append(distance(*(torch.randn(n, 16, generator=own) for _ in range(2))))
        return torch.tensor(pairs)

    few, many = apart(64, frechet), apart(512, frechet)
    assert few.mean() > 4 * many.mean() > 0
    unbiased = apart(64, kernel)
    assert unbiased.mean().abs() < 2 * unbiased.std() / 8**0.5


def made(n, change=lambda videos: videos):
    prompts = heldout_prompts(n)
    empty = Generated(
        videos={},
        grids={"base": GRID},
        prompts=[text for text, _ in prompts],
        contents=[content for _, content in prompts],
        render=shapes_truth,
    )
    videos = torch.stack([empty.truth("base", i) for i in range(n)])
    return replace(empty, videos={"base": change(videos)})


def test_wrong_videos_are_farther_and_the_name_says_the_recipe():
    measure = FeatureDistance(size=16, force=True)
    right = measure(made(12), "base").figures
    wrong = measure(made(12, lambda v: v // 2), "base").figures
    assert [*right] == [
        "FVD_random (random, videos 16×16, N=12)",
        "KVD_random (random, videos 16×16, N=12)",
    ]
    for name, figure in right.items():
        assert figure.value < wrong[name].value


def test_few_videos_are_refused_unless_forced():
    with pytest.raises(ValueError, match="8 videos, and fewer than 256 .* force=true"):
        FeatureDistance(size=32)(made(8), "base")


def test_a_world_with_one_right_video_per_prompt_is_refused():
    one = replace(made(4), render=lambda content, grid, _: shapes_truth(content, grid, 0))
    with pytest.raises(ValueError, match="this world has one for each prompt"):
        FeatureDistance(size=16, force=True).check(one)


def test_a_network_is_read_from_a_torchscript_file(tmp_path):
    path = tmp_path / "mine.pt"
    net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten())
    torch.jit.save(torch.jit.script(net), str(path))
    features = Features(path, reads="frames", size=16, range01=True)
    video = torch.full((2, 3, 4, 16, 16), 255, dtype=torch.uint8)
    assert torch.equal(features(video), torch.ones(8, 3))
    assert features.recipe == "mine, frames 16×16"
    with pytest.raises(FileNotFoundError, match="no such TorchScript file"):
        Features(tmp_path / "none.pt", reads="frames", size=16, range01=True)
