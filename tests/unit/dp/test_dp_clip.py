import numpy as np
import pytest

from privfl.dp import ElementClip, FlatClip, LayerClip
from privfl.errors import ConfigError


@pytest.mark.parametrize("clip", [FlatClip(1.5), LayerClip((0, 3, 10), (1.0, 2.0)), ElementClip(0.2, 10)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_clipped_vector_exceeds_the_norm(clip, dtype):
    for scale in (0.0, 1e-3, 1e2, 1e3, 1e30):
        update = (np.random.default_rng(1).normal(size=10) * scale).astype(dtype)
        result = clip(update)
        assert np.linalg.norm(result.vector.astype(np.float64)) <= clip.clip_norm * (1 + 1e-6)
        assert result.vector.dtype == dtype
        assert result.finite
        assert result.within == (scale < 1e-2)


@pytest.mark.parametrize("clip", [FlatClip(1.5), LayerClip((0, 3, 10), (1.0, 2.0)), ElementClip(0.2, 10)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_becomes_zero(clip, bad):
    update = np.ones(10)
    update[3] = bad
    result = clip(update)
    assert not result.finite
    assert not result.vector.any()


def test_norms_that_overflow_are_clipped_all_the_same():
    for entry in (1e160, 1e308):
        vector = FlatClip(1.0)(np.full(1000, entry)).vector
        assert np.linalg.norm(vector) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e15, 1e37])
@pytest.mark.parametrize("clip", [FlatClip(1e-3), LayerClip.of([6, 10], 1e-3), FlatClip(1e-30)])
def test_a_clipped_vector_keeps_its_direction(clip, scale):
    update = (np.random.default_rng(2).normal(size=16) * scale).astype(np.float32)
    parts = np.split(update.astype(np.float64), [6] if isinstance(clip, LayerClip) else [])
    norms = clip.norms if isinstance(clip, LayerClip) else [clip.clip_norm]
    right = np.concatenate([p * min(1, norm / np.linalg.norm(p)) for p, norm in zip(parts, norms, strict=True)])
    np.testing.assert_allclose(clip(update).vector, right, rtol=1e-6)


def test_layers_share_the_norm():
    clip = LayerClip.of([2, 3, 4], 3.0)
    assert clip.clip_norm == pytest.approx(3.0)
    assert clip.cuts == (0, 2, 5, 9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlatClip(0.0),
        lambda: LayerClip((0, 3), (1.0, 1.0)),
        lambda: LayerClip((1, 3), (1.0,)),
        lambda: LayerClip((0, 3, 3), (1.0, 1.0)),
        lambda: LayerClip((0, 3), (-1.0,)),
        lambda: LayerClip((0, 3), (1.0,))(np.ones(4)),
        lambda: ElementClip(1.0, 4)(np.ones(5)),
        lambda: FlatClip(1.0)(np.ones(4, np.int64)),
        lambda: FlatClip(1.0)(np.ones((2, 2))),
        lambda: FlatClip(1.0)(np.ones(0)),
    ],
)
def test_bad_input_is_refused(make):
    with pytest.raises(ConfigError):
        make()
