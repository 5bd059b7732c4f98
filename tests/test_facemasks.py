"""Masks drawn on the packaged faces are found; faces without are left alone."""
import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import face_paths
from extras.facemasks import GROWN, KINDS, draw_mask, find_mask


def aligned(path, side=128):
    """A packaged face, [side,side,3] uint8, roughly with its eyes where an aligned face has them."""
    return np.asarray(ImageOps.pad(Image.open(path), (side, side), Image.BICUBIC).convert('RGB'))


def iou(one, other):
    return (one & other).sum() / max(1., (one | other).sum())


@pytest.mark.parametrize('kind', KINDS)
def test_a_drawn_mask_is_found(kind):
    random, scores, missed = np.random.RandomState(0), [], []
    for path in face_paths()[::40]:
        face, mask = draw_mask(aligned(path), random, (kind,))
        hole = find_mask(face)
        assert face.shape == (128, 128, 3) and hole.shape == mask.shape == (128, 128, 1) and hole.dtype == np.uint8
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GROWN + 1, 2 * GROWN + 1))
        scores.append(iou(hole, cv2.dilate(mask, disc)[:, :, None]))
        missed.append((mask > hole).sum() / mask.sum())
    assert np.mean(scores) > .75 and np.mean(missed) < .1


def test_a_face_without_mask_has_no_hole():
    assert np.mean([find_mask(aligned(path)).any() for path in face_paths()[::20]]) <= .1


def test_the_size_of_the_picture_does_not_matter():
    face, mask = draw_mask(aligned(face_paths()[5]), np.random.RandomState(1), ('surgical',))
    hole = find_mask(face)
    large = find_mask(cv2.resize(face, (320, 256), interpolation=cv2.INTER_CUBIC))
    assert large.shape == (256, 320, 1)
    assert iou(cv2.resize(large, (128, 128), interpolation=cv2.INTER_NEAREST)[:, :, None], hole) > .9


def test_drawing_repeats_and_touches_nothing_far_from_the_mask():
    face = aligned(face_paths()[0])
    one, other = [draw_mask(face, np.random.RandomState(3)) for _ in range(2)]
    assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
    assert .1 < one[1].mean() < .5 and (one[0][:32] == face[:32]).all()
    assert (draw_mask(face, np.random.RandomState(4))[0] != one[0]).any()
