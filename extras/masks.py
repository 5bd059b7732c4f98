"""What --mask hides: rectangles, face masks, brush strokes, pictures of yours, or several of these. Knows no TensorFlow.

A mask is [height,width,1] uint8, 1 in the hole.
"""
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw

from datamanager import (DataError, center_mask, decode, find_files, flatten, named_like_image, plain, say_skipped,
                         shown)

FREE_SHARES = .1, 1 / 3.  # of the picture that a 'free' mask hides, least and most
FREE_TESTS = 16           # such masks in a test, faces take them in turn: a run for each mask
ROUNDED = 16              # levels by which one colour may vary in a mask: it is rounded, mixed, compressed

# What a surgical mask hides of an aligned face: (x, y) as shares of the picture's width and height.
LOWER = ((.5, .5), (.66, .56), (.84, .58), (.83, .72), (.76, .84), (.64, .93), (.5, .96),
         (.36, .93), (.24, .84), (.17, .72), (.16, .58), (.34, .56))


def random_mask(height, width, random):
    """[height,width,1] uint8: a rectangle with sides a quarter to a half of the picture's, anywhere inside.

    random: numpy.random.RandomState that draws it.
    """
    mask = np.zeros((height, width, 1), np.uint8)
    rows, columns = random.randint(height // 4, height // 2 + 1), random.randint(width // 4, width // 2 + 1)
    top, left = random.randint(0, height - rows + 1), random.randint(0, width - columns + 1)
    mask[top:top + rows, left:left + columns] = 1
    return mask


def lower_mask(height, width, random=None):
    """[height,width,1] uint8: mouth, nose tip, cheeks and chin of an aligned face (the polygon LOWER).

    random: numpy.random.RandomState that moves and scales it a little, as real face masks lie, and sets its upper
    edge from the nose bridge down to just above the mouth; None: as it stands.
    """
    points = np.array(LOWER)
    if random:
        chin = points.max(0)[1]
        points = (points - (.5, chin)) * (random.uniform(.85, 1.1), random.uniform(.6, 1.1)) + (.5, chin)
        points += random.uniform(-.04, .04, 2)
    image = Image.new('L', (width, height))
    ImageDraw.Draw(image).polygon([(x * (width - 1), y * (height - 1)) for x, y in points], fill=1)
    return np.asarray(image)[:, :, None].copy()


def free_mask(height, width, random):
    """[height,width,1] uint8: brush strokes and rectangles of random number, width and place.

    They hide FREE_SHARES of the picture. After the irregular masks of Liu et al. 2018
    (https://arxiv.org/abs/1804.07723) and the free-form ones of Yu et al. 2019 (https://arxiv.org/abs/1806.03589).
    random: numpy.random.RandomState that draws it.
    """
    image, least = Image.new('L', (width, height)), random.uniform(FREE_SHARES[0], .95 * FREE_SHARES[1])
    while np.asarray(image).mean() < least:
        trial = image.copy()
        (_draw_stroke if random.rand() < .7 else _draw_rectangle)(ImageDraw.Draw(trial), trial.size, random)
        if np.asarray(trial).mean() <= FREE_SHARES[1]:  # else it is drawn again
            image = trial
    return np.asarray(image)[:, :, None].copy()


def _draw_stroke(draw, size, random):
    """A line of a few bends with round ends."""
    side = min(size)
    thick, point, angle = side * random.uniform(.04, .15), random.rand(2) * size, random.uniform(0, 2 * np.pi)
    points = [point]
    for _ in range(random.randint(1, 6)):
        angle += random.uniform(-1.2, 1.2)
        point = point + side * random.uniform(.08, .3) * np.array([np.cos(angle), np.sin(angle)])
        points.append(point)
    draw.line([tuple(point) for point in points], fill=1, width=int(round(thick)))
    for x, y in points:
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=1)


def _draw_rectangle(draw, size, random):
    sides = np.array(size) * random.uniform(.1, .4, 2)
    start = random.rand(2) * (size - sides)
    draw.rectangle(tuple(start) + tuple(start + sides), fill=1)


def file_mask(path, height, width):
    """[height,width,1] uint8 from a picture (white = hole, see `whiteness`), scaled to a size of the same aspect.

    Raises DataError where the file is no picture, has another aspect, or its hole is not told, empty or everything.
    """
    image = decode(path, lambda image: whiteness(plain(image)), 'a mask')
    if image is None:
        raise DataError('%s: the mask has colours and transparent parts, and either could be the hole: give one '
                        'without transparency, white = hole, or strokes of one colour on nothing' % shown(path))
    if abs(image.width * height - image.height * width) > .02 * image.width * height + max(width, height):
        raise DataError('%s: the mask is %dx%d (height x width), the picture %dx%d: draw one of the same aspect' % (
            shown(path), image.height, image.width, height, width))
    mask = (np.asarray(image.resize((width, height), Image.BILINEAR)) > 127).astype(np.uint8)[:, :, None]
    if not mask.any():
        raise DataError('%s: the mask is empty: paint what is to be filled in white' % shown(path))
    if mask.all():
        raise DataError('%s: the mask hides the whole picture: leave what is known in black' % shown(path))
    return mask


def whiteness(image):
    """The Pillow image, mode L, in which the hole of a mask, a Pillow image as `plain` makes it, is white; or None.

    Of one colour on nothing, as editors save a layer of strokes, the strokes are the hole. None where a mask of several
    colours is partly transparent.
    """
    if image.mode in ('LA', 'RGBA'):
        alpha, image = image.getchannel('A'), image.convert(image.mode[:-1])
        least, most = alpha.getextrema()
        if least <= 127 < most:  # else nothing, or everything, is transparent
            seen = alpha.point(lambda value: 255 * (value > .95 * most))  # not the soft edges, which may be mixed
            colours = [np.flatnonzero(levels) for levels in np.reshape(image.histogram(seen), (-1, 256))]
            return alpha if max(np.ptp(levels) for levels in colours) <= ROUNDED else None
    return flatten(image).convert('L')


def share(part):
    """`part`, the share of a picture that a hole takes, in words; more than half may come of an inverted mask."""
    return '%.1f %% of the picture%s' % (100 * part, ' (it is the white of a mask that is repainted)' * bool(part > .5))


MASKS = {'center': center_mask, 'lower': lower_mask}                        # as they stand
DRAWN = {'random': random_mask, 'free': free_mask, 'lower': lower_mask}     # another each time, in training


def make_mask(kind, height, width, random=None):
    """[height,width,1] uint8 of `kind`: one of MASKS, one of DRAWN (by `random`), or the path of a picture."""
    if kind in DRAWN:
        return DRAWN[kind](height, width, random)
    return MASKS[kind](height, width) if kind in MASKS else file_mask(kind, height, width)


def mask_files(folder, pngs=False):
    """{relative path without extension: path} of the images, or PNGs, below a folder; of one name the PNG counts."""
    is_png = lambda name: name.lower().endswith('.png')
    return {os.path.splitext(name)[0]: os.path.join(folder, name) for name in sorted(find_files(folder), key=is_png)
            if is_png(name) or named_like_image(name) and not pngs}


def of_name(masks, path):
    """Of `masks`, with keys as `mask_files` has, that of the picture at `path`, or of its name in any folder; or None."""
    stem = os.path.splitext(path)[0]
    return masks.get(stem, masks.get(os.path.basename(stem)))


class Masks:
    """What --mask hides of pictures of (height, width): another mask for each batch in training, fixed ones in a test.

    text: 'center', 'lower', 'random', 'free', the path of a picture (white = hole) or of a folder of them; or several
    of them with commas between: each batch draws one, the faces of a test take them in turn. A path with commas that
    exists is one path. seed: of the masks that a test draws. Attributes: paths, the parts of the text that are paths;
    fingerprint, of the holes in them, or None.

    In training 'lower' moves. In a test 'random' is 'center', and a folder's masks go to the faces of their names, or
    else are taken in turn.
    In a folder a picture that is not a mask of that size, see file_mask, is named and left out. Raises DataError where
    there is no such mask.
    """

    def __init__(self, text, height, width, seed=0):
        self._size = height, width
        self._kinds = [text] if os.path.exists(text) else text.split(',')
        self.paths = [kind for kind in self._kinds if kind not in MASKS and kind not in DRAWN]
        for kind in self.paths:
            if not os.path.exists(kind):
                raise DataError('%s: no such mask%s: give center, lower, random, free, an image (white = hole), a '
                                'folder of them, or several of these with commas between' % (
                                    shown(kind) or "''", '' if kind == text else ' (of %s)' % shown(text)))
        self._tested = {kind: self._test_masks(kind, seed) for kind in self._kinds}
        drawn = [(name, mask.tobytes()) for kind in self.paths for name, mask in self._tested[kind].items()]
        self.fingerprint = '%08x' % zlib.crc32(repr(drawn).encode('utf-8', 'surrogateescape')) if drawn else None

    def _test_masks(self, kind, seed):
        """{name: mask} of all masks of a kind that a test shows."""
        if kind == 'free':
            return {number: free_mask(*self._size, random=np.random.RandomState([seed, number]))
                    for number in range(FREE_TESTS)}
        if kind not in self.paths or not os.path.isdir(kind):
            return {kind: make_mask('center' if kind == 'random' else kind, *self._size)}

        def load(path):  # a mask, or the reason why not
            try:
                return file_mask(path, *self._size)
            except DataError as error:
                return str(error)

        files = mask_files(kind)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            masks = dict(zip(files, pool.map(load, files.values())))
        bad = [mask for mask in masks.values() if isinstance(mask, str)]
        if len(bad) == len(masks):
            raise DataError('%s: no mask there%s: give --mask a folder of images, white = hole' % (
                shown(kind), ' that can be used (%s%s)' % (bad[0], ', ...' * (len(bad) > 1)) if bad else ''))
        say_skipped(bad)
        return {name: mask for name, mask in masks.items() if not isinstance(mask, str)}

    def draw(self, random):
        """[height,width,1] uint8 to train a batch on. random: numpy.random.RandomState that draws it."""
        several = len(self._kinds) > 1
        kind = self._kinds[random.randint(len(self._kinds)) if several else 0]
        if kind in DRAWN:
            return DRAWN[kind](*self._size, random=random)
        masks = list(self._tested[kind].values())
        return masks[random.randint(len(masks))]

    def test(self, number, path):
        """[height,width,1] uint8 of the face of that number in the test part and of that relative path."""
        turn, kind = divmod(number, len(self._kinds))
        masks = self._tested[self._kinds[kind]]
        own = of_name(masks, path)
        return list(masks.values())[turn % len(masks)] if own is None else own
