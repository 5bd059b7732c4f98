"""What a face recogniser that nobody here trained, dlib's, says of restored faces, and how sharp and clean they are.

    python tests/benchmarks/judge.py RESULTS [RESULTS ...]

prints a line of measures for each folder of results of a finished test: it reads the triples RESULTS/test/*.png.
`make judge` installs what it needs, and judges results/.
"""
import importlib.util
import os
import sys

import numpy as np
from PIL import Image
from scipy import ndimage

import common
import tf_process
try:
    import dlib
except ImportError:
    sys.exit('dlib is missing: make judge installs it')

GREY = 128                           # of the hole in a masked picture
ENLARGED = 256                       # pixels of height at least, where three times is enough for that
EYES = slice(36, 42), slice(42, 48)  # of the 68 landmarks
MEASURES = ['error', 'PSNR, dB', 'SSIM', 'rank-1', 'identity', 'of grey', 'landmarks', 'found', 'edges', 'grain']


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
        package = importlib.util.find_spec('face_recognition_models')  # not imported: that needs pkg_resources
        folder = os.path.join(package.submodule_search_locations[0], 'models')
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(os.path.join(folder, 'shape_predictor_68_face_landmarks.dat'))
        self._network = dlib.face_recognition_model_v1(
            os.path.join(folder, 'dlib_face_recognition_resnet_model_v1.dat'))

    def found(self, pictures):
        """The first face's rectangle in each picture [N,H,W,C] uint8, or None: a list."""
        return [next(iter(self._detector(picture)), None) for picture in enlarged(pictures)]

    def look(self, pictures, places):
        """(landmarks [N,68,2], points [N,128]) of the faces at their places, floats; one person's points lie close."""
        shapes = [self._landmarks(picture, place) for picture, place in zip(enlarged(pictures), places)]
        points = [self._network.compute_face_descriptor(*pair) for pair in zip(enlarged(pictures), shapes)]
        return np.array([[(part.x, part.y) for part in shape.parts()] for shape in shapes], float), np.array(points)


def places(found):
    """`found`, rectangles or None, with the median of the rectangles where there is none."""
    sides = [[each.left(), each.top(), each.right(), each.bottom()] for each in found if each]
    if not sides:
        sys.exit('no face found in any of the true pictures')
    typical = dlib.rectangle(*[int(side) for side in np.median(sides, 0)])
    return [each or typical for each in found]


def distances(some, others):
    """[N,M] float: between the points some [N,128] and others [M,128]."""
    return np.sqrt(((some[:, None] - others[None]) ** 2).sum(2))


def find_holes(true, masked):
    """[N,H,W] bool: what is grey in the masked faces and was another colour, or touches such, in the true ones."""
    grey, changed = (masked == GREY).all(3), (masked != true).any(3)
    return np.array([ndimage.binary_propagation(seed, mask=room) for seed, room in zip(changed, changed | grey)])


def texture(pictures, holes):
    """(edges, grain), means over pictures [N,H,W,C] uint8 of measures of their brightness in holes [N,H,W] bool.

    edges, the 95th percentile of the gradient: strokes; grain, the median of the absolute Laplacian: speckle.
    """
    found = []
    for brightness, hole in zip(pictures.mean(3), holes):
        gradient, laplacian = np.hypot(*np.gradient(brightness)), np.abs(ndimage.laplace(brightness))
        found.append([np.percentile(gradient[hole], 95), np.median(laplacian[hole])])
    return np.mean(found, 0)


def measures(true, masked, restored):
    """MEASURES of restorations, each [N,H,W,C] uint8: a list of floats.

    error: squared, summed over the hole, of pictures in [0, 1]; PSNR in the hole; SSIM: see tf_process.measure.
    rank-1: share of restorations whose nearest true face, among all, is their own. identity: mean distance to that;
    and the same as a share of the masked pictures'. landmarks: their mean distance as a share of that between the
    eyes. found: share of restorations in which the detector finds a face. edges, grain: see `texture`, relative to
    the true faces'. A face's place is the true picture's in all three; its landmarks there are each picture's own.
    """
    recogniser, holes = Recogniser(), find_holes(true, masked)
    faces = places(recogniser.found(true))
    (outline, own), (_, grey), (drawn, new) = [recogniser.look(pictures, faces)
                                               for pictures in (true, masked, restored)]
    apart = distances(new, own)
    eyes = np.linalg.norm(np.subtract(*[outline[:, eye].mean(1) for eye in EYES]), axis=1)
    moved = np.linalg.norm(outline - drawn, axis=2).mean(1) / eyes
    found = [place is not None for place in recogniser.found(restored)]
    plain = [tf_process.measure(true[i:i + 1], restored[i:i + 1] / np.float32(255), holes[i][:, :, None])[0]
             for i in range(len(true))]
    return list(np.mean(plain, 0)) + [
        (apart.argmin(1) == np.arange(len(apart))).mean(), apart.diagonal().mean(),
        apart.diagonal().mean() / distances(grey, own).diagonal().mean(), moved.mean(), np.mean(found),
        ] + list(texture(restored, holes) / texture(true, holes))


def formatted(values):
    """The MEASURES as strings."""
    form = '{:.2f}|{:.2f}|{:.4f}|{:.1%}|{:.3f}|{:.3f}|{:.2%}|{:.1%}|{:.2f}|{:.2f}'
    return form.format(*values).replace('%', ' %').split('|')


def names(results):
    """The sorted file names of the test's pictures in a folder of results."""
    if not os.path.isdir(os.path.join(results, 'test')):
        sys.exit('%s: no pictures of a test there: test a model first, with make run' % results)
    return sorted(os.listdir(os.path.join(results, 'test')))


def triples(results):
    """[true, masked, restored], each [N,H,W,C] uint8, of a folder of results, in the order of `names`."""
    pictures = np.array([np.asarray(Image.open(os.path.join(results, 'test', name))) for name in names(results)])
    return np.split(pictures.reshape(pictures.shape[:3] + (-1,)), 3, axis=2)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(common.table(['results'] + MEASURES, []), flush=True)
    for results in sys.argv[1:]:
        print(common.row([results] + formatted(measures(*triples(results)))), flush=True)


if __name__ == '__main__':
    main()
