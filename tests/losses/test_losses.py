"""The losses against their definitions: brute force, known facts, finite differences, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, permutations, product
from typing import Any, Literal

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lovasz_repro.losses import (
    LOSSES,
    Loss,
    cross_entropy,
    dispatch,
    hinge,
    lovasz_hinge,
    lovasz_softmax,
    make_loss,
    soft_jaccard,
)
from lovasz_repro.losses.compiled import compiled
from lovasz_repro.losses.extension import Method

# Timing is no test; the examples are many small batches, each with several images.
settings.register_profile("losses", max_examples=25, deadline=None)
settings.load_profile("losses")

METHODS: tuple[Method, ...] = ("sort", "bins")
BINARY = [cross_entropy, hinge, soft_jaccard, lovasz_hinge, partial(lovasz_hinge, method="bins")]
Batch = tuple[Tensor, Tensor]


def jaccard_loss(wrong: Tensor, foreground: Tensor) -> float:
    """1 - IoU of the prediction that is wrong just on ``wrong``; an empty union counts as IoU 1."""
    predicted = foreground ^ wrong
    union = int((predicted | foreground).sum())
    return 1 - int((predicted & foreground).sum()) / union if union else 0.0


def lovasz_by_threshold(errors: Tensor, foreground: Tensor) -> float:
    """The Lovász extension by its other definition, an integral of the set function over levels."""
    levels = [0.0, *sorted(set(errors[errors > 0].tolist()))]
    total = 0.0
    for low, high in pairwise(levels):
        total += (high - low) * jaccard_loss(errors > low, foreground)
    return total


@pytest.fixture(autouse=True, scope="module")
def subnormal_numbers() -> Iterator[None]:
    """Training flushes them to zero; here they are tested."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(True)


@pytest.fixture(autouse=True, scope="module", params=["loops", "operations"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The loops that a CPU runs, and the operations of torch that a GPU runs."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "operations":
            patch.setattr(dispatch, "on_cpu", lambda tensor: False)
        yield request.param


@st.composite
def batches(draw: st.DrawFn, pixels: int = 12, void: bool = True) -> Batch:
    """Logits ``(B, N)`` in float64 with many ties, and labels that need not hold either class."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, pixels)))
    steps = draw(arrays.arrays("int64", shape, elements=st.integers(-12, 12)))
    labels = [0, 1, 255] if void else [0, 1]
    target = draw(arrays.arrays("uint8", shape, elements=st.sampled_from(labels)))
    scale = draw(st.sampled_from([0.25, 0.37, 3.0]))
    return torch.from_numpy(steps).double() * scale, torch.from_numpy(target)


def all_subsets(pixels: int) -> Tensor:
    """Every set of pixels as a row, ``(2**p, p)``: bit i of a row's number is pixel i."""
    return (torch.arange(2**pixels)[:, None] >> torch.arange(pixels) & 1).bool()


def jaccard_of_all_subsets(foreground: Tensor) -> Tensor:
    """The Jaccard loss of every set of wrong pixels, ``(2**p,)``."""
    losses = [jaccard_loss(wrong, foreground) for wrong in all_subsets(len(foreground))]
    return torch.tensor(losses, dtype=torch.float64)


def lovasz_by_all_orders(errors: Tensor, foreground: Tensor) -> float:
    """The Lovász extension of a submodular function as the greatest value that an order gives."""
    orders = torch.tensor(list(permutations(range(len(errors)))), dtype=torch.int64)  # (p!, p)
    taken = F.pad((1 << orders).cumsum(1), (1, 0))  # the subset after each step, from none
    steps = jaccard_of_all_subsets(foreground)[taken].diff(dim=1)
    return float((steps * errors[orders]).sum(1).max())


def random_batch(*shape: int, dtype: torch.dtype = torch.float64, void: float = 0.2) -> Batch:
    generator = torch.Generator().manual_seed(sum(shape))
    target = torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)
    target[torch.rand(shape, generator=generator) < void] = 255
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 2, target


def gradient(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(logits, target), logits)[0]


def valid_errors(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge errors and labels of one image's valid pixels."""
    valid = target != 255
    foreground = target[valid] == 1
    return (1 - torch.where(foreground, 1, -1) * logits[valid]).relu(), foreground


@given(batches(pixels=8))
def test_sort_is_the_lovasz_extension(batch: Batch) -> None:
    for logits, target, loss in zip(*batch, lovasz_hinge(*batch, reduction="none"), strict=True):
        assert loss.item() == pytest.approx(lovasz_by_threshold(*valid_errors(logits, target)))


@given(batches(pixels=6))
def test_no_order_of_the_pixels_gives_more(batch: Batch) -> None:
    for logits, target, loss in zip(*batch, lovasz_hinge(*batch, reduction="none"), strict=True):
        assert loss.item() == pytest.approx(lovasz_by_all_orders(*valid_errors(logits, target)))


@pytest.mark.parametrize("foreground", range(9))
def test_no_order_of_eight_pixels_gives_more(foreground: int) -> None:
    logits = random_batch(1, 8)[0]
    target = (torch.arange(8) < foreground).to(torch.uint8)[None]
    expected = lovasz_by_all_orders(*valid_errors(logits, target))
    assert lovasz_hinge(logits, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_no_subset_weighs_more_than_its_jaccard_loss(method: Method) -> None:
    """The gradient with respect to the errors is in the base polytope: all 2**p constraints."""
    logits, target = random_batch(60, 8)
    loss = partial(lovasz_hinge, reduction="none", method=method)
    slopes = gradient(lambda f, y: loss(f, y).sum(), logits.round(), target)  # many ties
    for slope, y in zip(slopes, target, strict=True):
        weights, foreground = slope[y != 255].abs(), y[y != 255] == 1
        sums = all_subsets(len(weights)).double() @ weights
        assert (sums <= jaccard_of_all_subsets(foreground) + 1e-12).all()


@given(batches(pixels=8))
def test_float32_takes_the_same_order(batch: Batch) -> None:
    logits, target = batch
    exact = lovasz_hinge(logits.float().double(), target, reduction="none")
    torch.testing.assert_close(
        lovasz_hinge(logits.float(), target, reduction="none").double(), exact, rtol=1e-5, atol=1e-6
    )


@given(batches())
def test_bins_stay_within_the_proven_bound(batch: Batch) -> None:
    exact = lovasz_hinge(*batch, reduction="none")
    binned = lovasz_hinge(*batch, reduction="none", method="bins")
    rounding = 1e-12
    assert (binned <= exact + rounding).all()
    assert (binned >= exact * (1 - 1 / 256) - 2**-16 - rounding).all()


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 30.0, 900.0])
def test_bound_holds_where_bins_are_crowded(scale: float) -> None:
    logits, target = random_batch(4, 5000)
    exact = lovasz_hinge(logits * scale, target, reduction="none")
    binned = lovasz_hinge(logits * scale, target, reduction="none", method="bins")
    assert (binned <= exact * (1 + 1e-12)).all()
    assert (binned >= exact * (1 - 1 / 256) - 2**-16).all()


def test_bins_are_exact_for_errors_that_share_no_bin() -> None:
    logits = torch.linspace(-40, 0.9, 150, dtype=torch.float64).repeat(20)
    logits, target = logits[None], random_batch(1, 3000, void=0)[1]
    logits = torch.where(target == 1, logits, -logits)
    exact = lovasz_hinge(logits, target)
    torch.testing.assert_close(lovasz_hinge(logits, target, method="bins"), exact)


def test_bins_give_a_subgradient_up_to_the_error_of_the_loss() -> None:
    logits, target = random_batch(1, 400)
    binned = partial(lovasz_hinge, method="bins")
    slope, value = gradient(binned, logits, target), binned(logits, target)
    for seed in range(20):
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
        other = logits + noise
        assert lovasz_hinge(other, target) >= value + (slope * (other - logits)).sum() - 1e-12


@pytest.mark.parametrize("method", METHODS)
@given(batches())
def test_weights_are_nonnegative_and_sum_to_one(method: Method, batch: Batch) -> None:
    """With every pixel in error, the gradient with respect to the errors is a distribution."""
    logits, target = batch
    sign = torch.where(target == 1, 1.0, -1.0)
    logits = -sign * logits.abs()  # errors of 1 and more
    loss = partial(lovasz_hinge, method=method)
    weights = -sign * gradient(lambda f, y: loss(f, y, reduction="none").sum(), logits, target)
    assert (weights >= 0).all()
    some = (target != 255).any(1)
    torch.testing.assert_close(weights.sum(1), some.double())


@pytest.mark.parametrize("method", METHODS)
@given(batches(pixels=8))
def test_logits_of_one_give_twice_the_jaccard_loss(method: Method, batch: Batch) -> None:
    logits, target = torch.where(batch[0] > 0, 1.0, -1.0), batch[1]
    losses = lovasz_hinge(logits, target, reduction="none", method=method)
    for f, y, loss in zip(logits, target, losses, strict=True):
        errors, foreground = valid_errors(f, y)
        assert loss.item() == pytest.approx(2 * jaccard_loss(errors > 0, foreground), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(batches(pixels=8))
def test_errors_of_zero_and_one_give_the_jaccard_loss(method: Method, batch: Batch) -> None:
    wrong, target = batch[0] > 0, batch[1]
    logits = torch.where(wrong, 0.0, torch.where(target == 1, 1.0, -1.0))
    losses = lovasz_hinge(logits, target, reduction="none", method=method)
    for w, y, loss in zip(wrong, target, losses, strict=True):
        expected = jaccard_loss(w[y != 255], y[y != 255] == 1)
        assert loss.item() == pytest.approx(expected, abs=1e-5)


@given(batches())
def test_bounds_one_minus_iou(batch: Batch) -> None:
    for f, y, loss in zip(*batch, lovasz_hinge(*batch, reduction="none"), strict=True):
        f, y = f[y != 255], y[y != 255] == 1
        assert loss >= jaccard_loss((f > 0) ^ y, y) - 1e-12


@given(batches(), st.floats(0, 1))
def test_convex(batch: Batch, mix: float) -> None:
    logits, target = batch
    other = logits.flip(0, 1) * 1.3 + 0.1
    between = lovasz_hinge(mix * logits + (1 - mix) * other, target)
    ends = mix * lovasz_hinge(logits, target) + (1 - mix) * lovasz_hinge(other, target)
    assert between <= ends + 1e-9


@given(batches(), st.integers(0, 2**31))
def test_one_lipschitz_in_the_largest_change(batch: Batch, seed: int) -> None:
    logits, target = batch
    change = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    moved = lovasz_hinge(logits + change, target) - lovasz_hinge(logits, target)
    assert moved.abs() <= change.abs().max() + 1e-6


@pytest.mark.parametrize("method", METHODS)
@given(batches())
def test_zero_logits_give_one(method: Method, batch: Batch) -> None:
    some = (batch[1] != 255).any(1)
    losses = lovasz_hinge(batch[0] * 0, batch[1], reduction="none", method=method)
    torch.testing.assert_close(losses, some.double())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_pixel_is_the_hinge(method: Method, label: int) -> None:
    logits = torch.tensor([[-2.5], [-1.0], [0.3], [1.0], [4.0]])
    target = torch.full((5, 1), label)
    torch.testing.assert_close(
        lovasz_hinge(logits, target, reduction="none", method=method),
        hinge(logits, target, reduction="none"),
    )


@given(batches())
def test_all_foreground_is_the_mean_hinge(batch: Batch) -> None:
    target = torch.where(batch[1] == 0, 1, batch[1])
    torch.testing.assert_close(
        lovasz_hinge(batch[0], target, reduction="none"), hinge(batch[0], target, reduction="none")
    )


@pytest.mark.parametrize("loss", BINARY)
@given(batches(), st.randoms(use_true_random=False))
def test_pixels_may_be_permuted(loss: Loss, batch: Batch, random: object) -> None:
    logits, target = batch
    order = list(range(logits.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    torch.testing.assert_close(loss(logits[:, order], target[:, order]), loss(logits, target))


@pytest.mark.parametrize("loss", BINARY)
@given(batches())
def test_void_is_as_if_absent_and_never_read(loss: Loss, batch: Batch) -> None:
    logits, target = batch[0][:1], batch[1][:1]
    valid = target != 255
    poisoned = torch.where(valid, logits, torch.nan)
    slope = gradient(loss, poisoned, target)
    assert slope[~valid].eq(0).all()
    if valid.any():
        kept = logits[valid][None], target[valid][None]
        torch.testing.assert_close(loss(poisoned, target), loss(*kept))
        torch.testing.assert_close(slope[valid][None], gradient(loss, *kept))
    else:
        assert loss(poisoned, target) == 0


@pytest.mark.parametrize("loss", BINARY)
def test_gradient_matches_finite_differences(loss: Loss) -> None:
    for shape in [(3, 17), (2, 5, 4), (1, 1)]:
        logits, target = random_batch(*shape)
        assert shape == (1, 1) or set(target.flatten().tolist()) == {0, 1, 255}
        assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), target))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_image", [True, False])
def test_softmax_gradient_matches_finite_differences(method: Method, per_image: bool) -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = torch.tensor([[0, 1, 2, 255, 3, 3, 1, 0, 0], [2, 2, 255, 255, 0, 1, 0, 2, 2]])
    loss = partial(lovasz_softmax, target=target, per_image=per_image, method=method)
    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize("classes", ["present", "all"])
def test_softmax_is_the_lovasz_extension_of_each_class(classes: Literal["present", "all"]) -> None:
    logits, _ = random_batch(2, 3, 7)
    target = torch.tensor([[0, 0, 2, 2, 255, 0, 2], [1, 255, 255, 1, 1, 1, 0]])
    images = []
    for scores, labels in zip(logits.softmax(1), target, strict=True):
        valid = labels != 255
        images.append(
            [
                lovasz_by_threshold(abs((labels == c).double() - p)[valid], (labels == c)[valid])
                for c, p in enumerate(scores)
                if classes == "all" or (labels == c).any()
            ]
        )
    expected = sum(sum(losses) / len(losses) for losses in images) / len(images)
    loss = lovasz_softmax(logits, target, classes=classes, per_image=True)
    assert loss.item() == pytest.approx(expected)
    flat = logits.movedim(1, 0).reshape(1, 3, -1)
    torch.testing.assert_close(
        lovasz_softmax(logits, target, classes=classes),
        lovasz_softmax(flat, target.reshape(1, -1), classes=classes, per_image=True),
    )
    binned = lovasz_softmax(logits, target, classes=classes, per_image=True, method="bins")
    assert expected * (1 - 1 / 256) - 2**-16 <= binned.item() <= expected + 1e-12


def test_float32_gradient_agrees_with_float64() -> None:
    logits, target = random_batch(2, 513, 513, dtype=torch.float32, void=0.05)
    exact = gradient(lovasz_hinge, logits.double(), target)
    error = (gradient(lovasz_hinge, logits, target) - exact).abs().sum() / exact.abs().sum()
    assert error < 1e-5


@pytest.mark.parametrize("per_image", [True, False])
def test_soft_jaccard_is_its_formula(per_image: bool) -> None:
    logits, target = random_batch(3, 20)
    p, y, valid = logits.sigmoid(), (target == 1).double(), (target != 255).double()
    dim = 1 if per_image else (0, 1)
    losses = 1 - (valid * p * y).sum(dim) / (valid * (p + y - p * y)).sum(dim)
    torch.testing.assert_close(soft_jaccard(logits, target, per_image=per_image), losses.mean())


def test_soft_jaccard_of_an_image_without_foreground() -> None:
    logits = random_batch(1, 30, dtype=torch.float32)[0]
    empty = torch.zeros(1, 30)
    assert soft_jaccard(logits, empty) == 1
    assert gradient(soft_jaccard, logits, empty).eq(0).all()
    assert soft_jaccard(torch.full((1, 30), -torch.inf), empty) == 0


def test_pixel_losses_are_means_over_valid_pixels() -> None:
    logits, target = random_batch(3, 4, 5)
    target[0] = 255
    target[1, 0] = 255
    valid = target != 255
    expected = F.binary_cross_entropy_with_logits(logits, (target == 1).double(), reduction="none")
    torch.testing.assert_close(cross_entropy(logits, target), expected[valid].mean())
    per_image = torch.stack([expected[i][valid[i]].mean() for i in (1, 2)])
    none = cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(none, torch.cat([torch.zeros(1, dtype=torch.float64), per_image]))


@pytest.mark.parametrize("loss", [soft_jaccard, *BINARY[3:]])
def test_an_image_of_void_has_loss_zero_and_counts(loss: Loss) -> None:
    logits, target = random_batch(2, 30)
    target[0] = 255
    torch.testing.assert_close(loss(logits, target), loss(logits[1:], target[1:]) / 2)


@pytest.mark.parametrize("loss", [soft_jaccard, *BINARY[3:]])
def test_per_batch_is_one_long_image(loss: Loss) -> None:
    logits, target = random_batch(3, 4, 5)
    whole = loss(logits, target, per_image=False)  # type: ignore[call-arg]
    torch.testing.assert_close(whole, loss(logits.reshape(1, -1), target.reshape(1, -1)))
    with pytest.raises(ValueError, match="per_image=True"):
        loss(logits, target, per_image=False, reduction="none")  # type: ignore[call-arg]


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_the_same_beside_others(method: Method) -> None:
    logits, target = random_batch(6, 400)
    sign = torch.where(target == 1, 1.0, -1.0)
    logits[:3] = (sign * (4 + logits))[:3]
    logits[0] = sign[0] * 9
    logits[2, 5], target[2, 5] = torch.nan, 1
    loss = partial(lovasz_hinge, reduction="none", method=method)
    losses = loss(logits, target)
    assert losses[0] == 0 < losses[1]
    torch.testing.assert_close(loss(logits[:3], target[:3]), losses[:3], equal_nan=True)
    slope = partial(gradient, lambda f, y: loss(f, y).sum())
    torch.testing.assert_close(
        slope(logits[:3], target[:3]), slope(logits, target)[:3], equal_nan=True
    )


def test_loops_are_compiled_where_they_cannot_be_kept() -> None:
    names: dict[str, Callable[..., int]] = {}
    exec("def double(x):\n    return 2 * x", names)  # of no file: there is no folder beside it
    assert compiled(names["double"])(3) == 6


@pytest.mark.parametrize("loss", BINARY)
def test_nan_and_infinity(loss: Loss) -> None:
    logits = torch.tensor([[3.0, -3.0, 0.5, -1.0]])
    target = torch.tensor([[1, 0, 0, 1]])
    right = torch.tensor([[torch.inf, -torch.inf, 0.5, -1.0]])
    assert loss(right, target).isfinite()
    assert gradient(loss, right, target).isfinite().all()
    wrong = torch.tensor([[torch.inf, 0.0, torch.inf, -torch.inf]])
    assert loss(wrong, target) > (0.7 if loss is soft_jaccard else 1e30)
    for nan, position in product([torch.nan, -torch.nan], range(4)):
        broken = logits.clone()
        broken[0, position] = nan
        assert loss(broken, target).isnan()
        if loss is not hinge:  # whose derivative is a constant
            assert gradient(loss, broken, target).isnan().any()


@pytest.mark.parametrize("loss", BINARY)
def test_half_precision_is_computed_in_single(loss: Loss) -> None:
    logits, target = random_batch(2, 60, dtype=torch.bfloat16)
    assert loss(logits, target).dtype == torch.float32
    assert loss(logits.double(), target).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits, target), loss(logits.float(), target))
    assert gradient(loss, logits, target).dtype == torch.bfloat16


@pytest.mark.parametrize("loss", BINARY)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_labels_of_any_real_dtype(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = random_batch(2, 30)
    torch.testing.assert_close(loss(logits, target.to(dtype)), loss(logits, target))
    torch.testing.assert_close(loss(logits, target == 1), loss(logits, (target == 1).to(dtype)))


@pytest.mark.parametrize("loss", BINARY)
def test_transforms_and_deterministic_mode(loss: Loss) -> None:
    logits, target = random_batch(2, 6, 5)
    expected = gradient(loss, logits, target)
    torch.testing.assert_close(torch.func.grad(loss)(logits, target), expected)
    strided = logits.mT.contiguous().mT
    flat = logits.flatten(1), target.flatten(1)
    assert loss(*flat) == loss(*(x.T.contiguous().T for x in flat))
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(gradient(loss, strided, target), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
# Of torch 2.11 while it compiles.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_compiles_to_one_graph(method: Method) -> None:
    logits, target = random_batch(2, 6, 5, dtype=torch.float32)

    def loss(f: Tensor, y: Tensor) -> Tensor:
        softmax = lovasz_softmax(torch.stack([f, -f], 1), y, method=method)
        return (
            cross_entropy(f, y) + soft_jaccard(f, y) + lovasz_hinge(f, y, method=method) + softmax
        )

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))
    torch.testing.assert_close(gradient(compiled, logits, target), gradient(loss, logits, target))
    with pytest.raises(RuntimeError, match="labels must be"):
        compiled(logits, target + 7)


@pytest.mark.parametrize("loss", BINARY)
def test_says_what_does_not_fit(loss: Loss) -> None:
    logits, target = random_batch(2, 3)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        loss(logits.long(), target)
    with pytest.raises(TypeError, match="complex64"):
        loss(logits, target.to(torch.complex64))
    with pytest.raises(ValueError, match=r"\(2, 3\) and target \(2, 2\)"):
        loss(logits, target[:, :2])
    with pytest.raises(ValueError, match="at least one pixel"):
        loss(logits[:, :0], target[:, :0])
    with pytest.raises(ValueError, match="meta"):
        loss(logits, target.to("meta"))
    with pytest.raises(ValueError, match=r"0, 1 or 255, got .*7"):
        loss(logits, torch.tensor([[0, 1, 7], [0, 0, 1]]))
    for wraps in (256, -255, 2**32 + 1):
        with pytest.raises(ValueError, match=f"got .*{wraps}"):
            loss(logits, torch.tensor([[0, 1, wraps], [0, 0, 1]]))
    with pytest.raises(ValueError, match="ignore_index"):
        loss(logits, target, ignore_index=1)  # type: ignore[call-arg]


def test_other_void_labels() -> None:
    logits, target = random_batch(2, 30)
    moved = torch.where(target == 255, -100, target.long())
    torch.testing.assert_close(
        lovasz_hinge(logits, moved, ignore_index=-100), lovasz_hinge(logits, target)
    )
    no_void = target.clamp(max=1)
    torch.testing.assert_close(
        lovasz_hinge(logits, no_void, ignore_index=-100), lovasz_hinge(logits, no_void)
    )


def test_softmax_says_what_does_not_fit() -> None:
    logits, target = torch.zeros(2, 3, 4), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="C >= 2"):
        lovasz_softmax(logits[:, :1], target)
    with pytest.raises(ValueError, match=r"0 \.\.\. 2 or 255"):
        lovasz_softmax(logits, target + 3)
    with pytest.raises(ValueError, match="target must fit"):
        lovasz_softmax(logits, target[:, :3])
    with pytest.raises(ValueError, match="median"):
        lovasz_softmax(logits, target, classes="median")  # type: ignore[arg-type]
    huge = torch.zeros(1, 2**31, device="meta")
    with pytest.raises(ValueError, match="2147483648 pixels"):
        lovasz_hinge(huge, huge)
    with pytest.raises(ValueError, match="heap"):
        lovasz_hinge(target, target, method="heap")  # type: ignore[arg-type]
    assert lovasz_softmax(logits, target + 255) == 0


def test_registry_and_mixtures() -> None:
    batch = random_batch(2, 40)
    assert set(LOSSES) == {
        "cross_entropy", "hinge", "soft_jaccard", "soft_jaccard_per_image",
        "lovasz_hinge", "lovasz_hinge_per_batch", "mixed",
    }  # fmt: skip
    assert make_loss("soft_jaccard")(*batch) == soft_jaccard(*batch, per_image=False)
    assert make_loss("soft_jaccard_per_image")(*batch) == soft_jaccard(*batch)
    assert make_loss("lovasz_hinge_per_batch")(*batch) == lovasz_hinge(*batch, per_image=False)
    half = 0.5 * cross_entropy(*batch) + 0.5 * lovasz_hinge(*batch)
    torch.testing.assert_close(make_loss("mixed")(*batch), half)
    torch.testing.assert_close(
        make_loss({"hinge": 2.0, "cross_entropy": 0.25})(*batch),
        2 * hinge(*batch) + cross_entropy(*batch) / 4,
    )
    for wrong in ("dice", {"hinge": 1.0, "dice": 1.0}, {}):
        with pytest.raises(ValueError, match="lovasz_hinge_per_batch"):
            make_loss(wrong)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["sort", "bins"])
def test_softmax_reads_no_void(broken: float, method: Method) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 20), torch.randint(0, 3, (2, 20))
    target[:, ::4] = 255
    expected = lovasz_softmax(logits, target, method=method)
    logits[:, :, ::4] = broken
    logits.requires_grad_()
    value = lovasz_softmax(logits, target, method=method)
    torch.autograd.backward(value)
    assert torch.equal(value, expected)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, :, ::4].any()


@pytest.mark.parametrize("ignore_index", [256, 257, 258, -1])
def test_a_void_label_that_the_type_cannot_hold_is_nowhere(ignore_index: int) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 20), torch.randint(0, 3, (2, 20))
    expected = lovasz_softmax(logits, target)
    small = target.to(torch.uint8)
    assert torch.equal(lovasz_softmax(logits, small, ignore_index=ignore_index), expected)
    small[0, 0] = 255
    with pytest.raises(ValueError, match="labels must be"):
        lovasz_softmax(logits, small, ignore_index=ignore_index)
    with pytest.raises(ValueError, match="labels must be"):  # −1 is not 255
        lovasz_softmax(logits, target.to(torch.int8).index_fill(1, torch.tensor([0]), -1))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.full((1, 4), 7), "labels must be 0, 1 or 255, got 7$"),
        (torch.full((1, 4), torch.nan), "got nan$"),
        (torch.arange(100.0).view(1, 100) / 8, r"got 0, 0.125, .* and 92 more; soft labels are"),
    ],
)
@pytest.mark.parametrize("loss", [cross_entropy, lovasz_hinge])
def test_the_error_of_wrong_labels_shows_a_few(loss: Loss, target: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loss(torch.zeros(target.shape), target)


def test_what_is_no_tensor_is_named() -> None:
    array: Any = np.zeros((1, 4))
    for loss in (cross_entropy, lovasz_hinge):
        with pytest.raises(TypeError, match="must be tensors, got Tensor and ndarray"):
            loss(torch.zeros(1, 4), array)


jit_is_deprecated = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""torch uses it itself, in forward mode."""


@pytest.mark.parametrize("loss", BINARY)
def test_vmap_is_a_loop(loss: Loss) -> None:
    logits, target = random_batch(3, 2, 4, 5)
    expected = torch.stack([loss(f, y) for f, y in zip(logits, target, strict=True)])
    slopes = torch.stack([gradient(loss, f, y) for f, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(torch.func.vmap(loss)(logits, target), expected)
    torch.testing.assert_close(
        torch.func.vmap(loss, (1, 1))(logits.movedim(0, 1), target.movedim(0, 1)), expected
    )
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(logits, target), slopes)
    same = torch.stack([loss(f, target[0]) for f in logits])
    torch.testing.assert_close(torch.func.vmap(loss, (0, None))(logits, target[0]), same)
    twice = torch.func.vmap(torch.func.vmap(loss))(logits[None], target[None])
    torch.testing.assert_close(twice, expected[None])
    target[1, 0, 0, 0] = 7
    with pytest.raises(ValueError, match=r"0, 1 or 255, got .*7"):
        torch.func.vmap(loss)(logits, target)


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_vmap_of_softmax_is_a_loop(method: Method, per_image: bool, path: str) -> None:
    if path == "operations":
        pytest.skip("not on a GPU")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 9, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 2, 9), generator=generator)
    target[:, :, 0] = 255
    loss = partial(lovasz_softmax, method=method, per_image=per_image)
    expected = torch.stack([loss(f, y) for f, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(torch.func.vmap(loss)(logits, target), expected)


def jvp(loss: Callable[[Tensor], Tensor], logits: Tensor, tangent: Tensor) -> tuple[Any, Any]:
    """The value, and its derivative along the tangent."""
    value, moved, *_ = torch.func.jvp(loss, (logits,), (tangent,))
    return value, moved


@jit_is_deprecated
@pytest.mark.parametrize("loss", BINARY)
def test_forward_mode_is_the_slope_along_a_tangent(loss: Loss) -> None:
    logits, target = random_batch(3, 17)
    tangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    value, moved = jvp(lambda f: loss(f, target), logits, tangent)
    torch.testing.assert_close(value, loss(logits, target))
    torch.testing.assert_close(moved, (gradient(loss, logits, target) * tangent).sum())
    step = 1e-7
    ends = [loss(logits + sign * step * tangent, target) for sign in (1, -1)]
    torch.testing.assert_close(moved, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)
    twice = torch.autograd.functional.jvp(  # type: ignore[no-untyped-call]
        lambda f: loss(f, target), logits, tangent
    )  # by the double backward
    torch.testing.assert_close(moved, twice[1])
    assert torch.autograd.gradcheck(
        loss, (logits.requires_grad_(), target), check_forward_ad=True, check_batched_grad=False
    )


@jit_is_deprecated
@pytest.mark.parametrize("method", METHODS)
def test_forward_mode_of_softmax(method: Method) -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = torch.tensor([[0, 1, 2, 255, 3, 3, 1, 0, 0], [2, 2, 255, 255, 0, 1, 0, 2, 2]])
    loss = partial(lovasz_softmax, target=target, method=method)
    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), check_forward_ad=True)
    torch.testing.assert_close(torch.func.jacfwd(loss)(logits), gradient_of(loss, logits))


def gradient_of(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    return gradient(lambda f, _: loss(f), logits, logits)


@jit_is_deprecated
def test_forward_mode_of_nan_is_nan() -> None:
    logits, target = random_batch(2, 5, void=0)
    logits[0, 0] = torch.nan
    loss = partial(lovasz_hinge, reduction="none")
    _, moved = jvp(lambda f: loss(f, target), logits, torch.ones_like(logits))
    assert moved[0].isnan()
    assert moved[1].isfinite()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.float32])
@pytest.mark.parametrize("loss", BINARY)
def test_a_void_label_that_binary_labels_cannot_hold_is_nowhere(
    loss: Loss, dtype: torch.dtype
) -> None:
    logits, target = random_batch(2, 30, void=0)
    labels = target.to(dtype)
    for ignored in (256, 257, -256, -255, 300):
        assert torch.equal(loss(logits, labels, ignore_index=ignored), loss(logits, target))  # type: ignore[call-arg]
    there, other = (255, -1) if dtype == torch.uint8 else (-1, 255)
    labels[0, 0] = there
    with pytest.raises(ValueError, match="labels must be"):
        loss(logits, labels, ignore_index=other)  # type: ignore[call-arg]
    with_void = target.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(255).byte())
    expected = loss(logits, with_void)
    assert torch.equal(loss(logits, labels, ignore_index=there), expected)  # type: ignore[call-arg]


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_softmax_are_whole_and_of_any_dtype(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 300, 8, generator=generator)
    target = torch.randint(0, 300, (2, 8), generator=generator)
    expected = lovasz_softmax(logits, target, ignore_index=-1, method=method)
    for dtype in (torch.int16, torch.int32, torch.float32, torch.float64):
        labels = target.to(dtype)
        assert lovasz_softmax(logits, labels, ignore_index=-1, method=method) == expected
    for wrong in (0.5, math.nan, math.inf, -2.0):
        labels = target.float()
        labels[0, 0] = wrong
        with pytest.raises(ValueError, match="labels must be"):
            lovasz_softmax(logits, labels, ignore_index=-1, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_threads_gives_the_same_bits(method: Method, path: str) -> None:
    if path == "operations":
        pytest.skip("they are torch's")
    logits, target = random_batch(5, 300, 301, dtype=torch.float32)
    scores = torch.rand(1, 2, 6, 22650, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 6, (1, 2, 22650), generator=torch.Generator().manual_seed(1))

    def results() -> list[Tensor]:
        slope = gradient(lambda f, y: lovasz_hinge(f, y, method=method), logits, target)
        losses, _ = dispatch.lovasz_extension(scores, labels, 255, method)
        return [lovasz_hinge(logits, target, reduction="none", method=method), slope, losses]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results()
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(), alone))
    finally:
        torch.set_num_threads(before)
