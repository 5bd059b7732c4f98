"""What a face recogniser that nobody here trained, dlib's, says of restored faces, and how sharp and clean they are.

    python tests/benchmarks/judge.py RESULTS [RESULTS ...]

prints a line of measures for each folder of results of a finished test: it reads the triples RESULTS/test/*.png.
"""
import importlib.util
import os
import sys

import dlib
import numpy as np
from PIL import Image
from scipy import ndimage

import common

GREY = 128                                # of the hole in a masked picture
ENLARGED = 256                            # pixels of height at least, where three times is enough for that
EYES = slice(36, 42), slice(42, 48)       # of the 68 landmarks
MEASURES = ['error', 'PSNR, dB', 'rank-1', 'identity', 'of grey', 'landmarks', 'found', 'edges', 'grain']


def enlarged(pictures):
    """The pictures [N,H,W,C] uint8 one by one, [h,w,3] uint8, two or three times as large."""
    height, width = pictures.shape[1:3]
    scale = 2 if 2 * height >= ENLARGED else 3
    for picture in pictures:
        image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).convert('RGB')
        yield np.asarray(image.resize((width * scale, height * scale), Image.BICUBIC))


class Recogniser:
    """dlib's face detector, 68 landmarks and recogniser (King 2009; Kazemi & Sullivan 2014; 99.4 % on LFW)."""

    def __init__(self):
        folder = os.path.join(importlib.util.find_spec('face_recognition_models').submodule_search_locations[0], 'models')
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(os.path.join(folder, 'shape_predictor_68_face_landmarks.dat'))
        self._network = dlib.face_recognition_model_v1(
            os.path.join(folder, 'dlib_face_recognition_resnet_model_v1.dat'))

    def found(self, pictures):
        """The first face's rectangle in each picture [N,H,W,C] uint8, or None: a list."""
        return [next(iter(self._detector(picture)), None) for picture in enlarged(pictures)]

    def shapes(self, pictures, places):
        """dlib's 68 landmarks in each picture [N,H,W,C] uint8, of the face at its place: a list."""
        return [self._landmarks(picture, place) for picture, place in zip(enlarged(pictures), places)]

    def describe(self, pictures, shapes):
        """[N,128] float: each face, cut out where its landmarks are, as a point; one person's lie close together."""
        return np.array([self._network.compute_face_descriptor(picture, shape)
                         for picture, shape in zip(enlarged(pictures), shapes)])


def places(found):
    """`found`, rectangles or None, with the median of the rectangles where there is none."""
    sides = [[each.left(), each.top(), each.right(), each.bottom()] for each in found if each]
    if not sides:
        sys.exit('no face found in any of the true pictures')
    typical = dlib.rectangle(*[int(side) for side in np.median(sides, 0)])
    return [each or typical for each in found]


def points(shapes):
    """[N,68,2] float of dlib's landmarks."""
    return np.array([[(part.x, part.y) for part in shape.parts()] for shape in shapes], float)


def distances(some, others):
    """[N,M] float: between the points some [N,128] and others [M,128]."""
    return np.sqrt(((some[:, None] - others[None]) ** 2).sum(2))


def texture(pictures, hole):
    """(edges, grain): means over pictures [N,H,W,C] uint8 of measures of their brightness in the hole [H,W] bool.

    edges, the 95th percentile of the gradient: strokes; grain, the median of the absolute Laplacian: speckle.
    """
    brightness = pictures.mean(3)
    gradient = np.hypot(*np.gradient(brightness, axis=(1, 2)))[:, hole]
    laplacian = np.array([np.abs(ndimage.laplace(picture)) for picture in brightness])[:, hole]
    return np.array([np.percentile(gradient, 95, axis=1).mean(), np.median(laplacian, 1).mean()])


class Judge:
    """Compares restorations with the true faces [N,H,W,C] uint8, hidden in hole [H,W] bool.

    A face's place is the true picture's for all its restorations; its landmarks there are each picture's own.
    """

    def __init__(self, true, hole):
        self._true, self._hole, self._recogniser = true, hole, Recogniser()
        self._places = places(self._recogniser.found(true))
        self._points, self._described = self._look(true)
        _, grey = self._look(np.where(hole[:, :, None], np.uint8(GREY), true))
        self._grey = distances(grey, self._described).diagonal().mean()

    def _look(self, pictures):
        """(landmarks [N,68,2], descriptors [N,128]) of the faces at their places."""
        shapes = self._recogniser.shapes(pictures, self._places)
        return points(shapes), self._recogniser.describe(pictures, shapes)

    def measures(self, restored):
        """MEASURES of the restored faces [N,H,W,C] uint8, a list of floats.

        error: squared, summed over the hole, of pictures in [0, 1]. PSNR in the hole. rank-1: share of restorations
        whose nearest true face of all is their own. identity: mean distance to it; and that as a share of the grey
        hole's. landmarks: their mean distance as a share of that between the eyes. found: share of restorations in
        which the detector finds a face. edges, grain: see `texture`, relative to the true faces'.
        """
        squares = ((self._true / 255. - restored / 255.) ** 2).sum((1, 2, 3))
        psnr = -10 * np.log10(np.maximum(squares, 1e-9) / (self._hole.sum() * self._true.shape[3]))
        drawn, described = self._look(restored)
        apart = distances(described, self._described)
        rank, identity = (apart.argmin(1) == np.arange(len(apart))).mean(), apart.diagonal().mean()
        eyes = np.linalg.norm(np.subtract(*[self._points[:, eye].mean(1) for eye in EYES]), axis=1)
        moved = np.linalg.norm(self._points - drawn, axis=2).mean(1) / eyes
        found = np.mean([place is not None for place in self._recogniser.found(restored)])
        return [squares.mean(), psnr.mean(), rank, identity, identity / self._grey, moved.mean(), found] + list(
            texture(restored, self._hole) / texture(self._true, self._hole))


def formatted(values):
    """The MEASURES as strings."""
    return '{:.2f}|{:.2f}|{:.1%}|{:.3f}|{:.3f}|{:.2%}|{:.1%}|{:.2f}|{:.2f}'.format(*values).replace('%', ' %').split('|')


def triples(results):
    """(true, masked, restored), each [N,H,W,C] uint8, of a folder of results, in the order of names."""
    folder = os.path.join(results, 'test')
    pictures = np.array([np.asarray(Image.open(os.path.join(folder, name))) for name in sorted(os.listdir(folder))])
    return np.split(pictures.reshape(pictures.shape[:3] + (-1,)), 3, axis=2)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(common.table(['results'] + MEASURES, []), flush=True)
    for results in sys.argv[1:]:
        true, masked, restored = triples(results)
        hole = (masked == GREY).all((0, 3))
        print(common.row([results] + formatted(Judge(true, hole).measures(restored))), flush=True)


if __name__ == '__main__':
    main()
