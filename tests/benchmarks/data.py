"""The pictures that the documents measure on, made again from public repositories; docs/data.md says more of them.

    python tests/benchmarks/data.py SET FOLDER [--clones DIR]

| SET | pictures | from | licence, as the source states it |
| --- | --- | --- | --- |
| influencers | 784 | a312863063/seeprettyface-dataset | free to use, not commercially |
| open | 2,529 | five repositories, see sources.tsv | MIT, CC0, US government work |
| open256 | 3,434 | fourteen repositories, likewise | MIT, CC0, CC BY, Licence Ouverte, government work |
| lfw64 | 8,474 | hromi/SMILEsmileD | from Labeled Faces in the Wild: for measuring only |
| photos | 38 | presidential-innovation-fellows/pif-website, 18F/18f.gsa.gov | US government work, CC0 |
| masked | 32 | chandrikadeb7/Face-Mask-Detection | collected from the web: for measuring only |

FOLDER is made, whole or not at all. The repositories are cloned (git, a network, up to 3 GB) into DIR, or into a folder
that goes afterwards. DIR may have them already: as OWNER+NAME or NAME, bare or not.
"""
import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

import common
from datamanager import DataError, flatten, plain

SOURCES = os.path.join(common.ROOT, 'tests', 'benchmarks', 'sources.tsv')  # what a picture is made of: a git blob
SHEETS = 'a312863063/seeprettyface-dataset', '07dbe193340bc2341d4c0b3abbb2bce0c42c5e29:'  # and a tree in it
NEGATIVES = 'hromi/SMILEsmileD', '6afac66f50061948eed7da5a351cecd9c4a99fe3:SMILEs/negatives/negatives7/'
APART = 1000  # of the negatives are kept to check results on
SOFT = 1.02   # pixels of a source in one of a face: from here on the face is made smaller


# -------------------------------------------------------------------------------------------------- repositories

def repository(name, clones):
    """The folder in `clones` that has a public repository, OWNER/NAME: cloned if need be, DataError where that fails."""
    folders = [os.path.join(clones, folder) for folder in (name.replace('/', '+'), name.split('/')[1])]
    for folder in folders:
        if os.path.isdir(folder):
            return folder
    print('cloning %s' % name, flush=True)
    process = subprocess.run(
        ['git', 'clone', '--quiet', '--bare', '--filter=blob:limit=4m',  # no picture that is needed is larger
         'https://github.com/%s.git' % name, folders[0]],
        env=dict(os.environ, GIT_TERMINAL_PROMPT='0'), stderr=subprocess.PIPE, universal_newlines=True)
    if process.returncode:
        raise DataError('%s cannot be cloned (%s): try again, or name a folder that has it with --clones' % (
            name, process.stderr.strip().split('\n')[-1]))
    return folders[0]


def contents(clone, names):
    """Yield the bytes of git objects: hashes, or COMMIT:PATH. DataError where one is missing."""
    with subprocess.Popen(['git', '-C', clone, 'cat-file', '--batch'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as git:
        for name in names:
            try:
                git.stdin.write(name.encode() + b'\n')
                git.stdin.flush()
                size = int(git.stdout.readline().split()[-1])
            except (OSError, IndexError, ValueError):  # no repository; no such object
                raise DataError('%s has no %s: remove that folder, so that it is cloned again' % (clone, name))
            yield git.stdout.read(size)
            git.stdout.read(1)


def listed(place, clones):
    """(clone, tree, names of the JPEGs in it, sorted) of a place, (OWNER/NAME, tree)."""
    clone, tree = repository(place[0], clones), place[1]
    names = subprocess.run(['git', '-C', clone, 'ls-tree', '--name-only', tree], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, universal_newlines=True).stdout.split('\n')
    next(contents(clone, [tree]))  # or DataError
    return clone, tree, [name for name in names if name.endswith('.jpg')]


def sources(kinds, clones):
    """Yield (Pillow image, its rows in SOURCES) for each image that pictures of some kinds are made of."""
    rows = [row for row in common.read_table(SOURCES, '\t') if row['file'].split('/')[0] in kinds]
    rows.sort(key=lambda row: (row['repository'], row['blob']))
    for name, group in itertools.groupby(rows, lambda row: row['repository']):
        images = [list(rows) for _, rows in itertools.groupby(group, lambda row: row['blob'])]
        blobs = contents(repository(name, clones), [rows[0]['blob'] for rows in images])
        for rows, blob in zip(images, blobs):
            yield Image.open(BytesIO(blob)), rows


# ------------------------------------------------------------- pictures: each of these yields (name, JPEG's bytes)

def jpeg(image, **options):
    """The bytes of a Pillow image as a JPEG; options as Pillow's writer takes them."""
    file = BytesIO()
    image.convert('RGB').save(file, 'JPEG', **options)
    return file.getvalue()


def tiles(clones):
    """Sheets of 8x8 faces, but for one column, which is kept to check results on."""
    clone, tree, names = listed(SHEETS, clones)
    for name, sheet in zip(names, contents(clone, [tree + name for name in names])):
        sheet = Image.open(BytesIO(sheet))
        for number in range(64):
            if number % 8 != 5:
                x, y = 128 * (number % 8), 128 * (number // 8)
                yield '%02d_%s' % (number, name), jpeg(sheet.crop((x, y, x + 128, y + 128)), quality=95, subsampling=0)


def negatives(clones):
    """Pictures as they are, but for those that a shuffle has put apart, and one that was forgotten."""
    clone, tree, names = listed(NEGATIVES, clones)
    random.Random(0).shuffle(names)
    names = [name for name in names[:-APART] if name != '9999.jpg']
    yield from zip(names, contents(clone, [tree + name for name in names]))


def cut(image, transform, side):
    """The face in a Pillow image, another, 256x256 or 128x128; (a, b, x, y) turn, scale and shift to the 256x256."""
    a, b, x, y = transform
    scale = 1 / np.hypot(a, b)
    fine = int(np.ceil(scale)) if scale > SOFT else 1  # cut about as fine as the image is, then made smaller
    matrix = fine * np.array([[a, b, x], [-b, a, y]])
    matrix[:, 2] += (fine - 1) / 2  # from the middles of pixels to those of finer ones
    sharp = cv2.INTER_LANCZOS4 if fine == 1 and side == 256 else cv2.INTER_CUBIC
    face = cv2.warpAffine(np.asarray(image), matrix, (256 * fine, 256 * fine), flags=sharp,
                          borderMode=cv2.BORDER_REFLECT_101)
    if side == 256:
        return Image.fromarray(face).resize((side, side), Image.BICUBIC)
    return Image.fromarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA))


def faces(side, kinds, clones):
    """Aligned faces, side x side."""
    for image, rows in sources(kinds, clones):
        image = flatten(plain(image)).convert('RGB')
        for row in rows:
            part = image.crop([int(edge) for edge in row['box'].split(',')]) if row['box'] else image
            face = cut(part, [float(number) for number in row['transform'].split()], side)
            yield os.path.basename(row['file']), jpeg(face, quality=92)


def photos(kind, longest, quality, clones):
    """Whole photos, at most `longest` pixels a side; those that are given as people's own keep their EXIF."""
    for image, rows in sources([kind], clones):
        exif, scale = image.info.get('exif', b'') if kind == 'photos' else b'', longest / max(image.size)
        image = image.convert('RGB')
        if scale < 1:
            image = image.resize([round(scale * side) for side in image.size], Image.LANCZOS)
        yield os.path.basename(rows[0]['file']), jpeg(image, quality=quality, exif=exif)


# ---------------------------------------------------------------------------------------------------------- main

SETS = {'influencers': tiles, 'lfw64': negatives,
        'open': partial(faces, 128, ['open']), 'open256': partial(faces, 256, ['open', 'open256']),
        'photos': partial(photos, 'photos', 1000, 90), 'masked': partial(photos, 'masked', 800, 88)}


def build(pictures, folder):
    """Write the pictures into a new folder; their number."""
    part = folder + '.part'
    shutil.rmtree(part, ignore_errors=True)  # of a killed run
    os.makedirs(part)
    try:
        for name, data in pictures:
            with open(os.path.join(part, name), 'wb') as file:
                file.write(data)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(os.listdir(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('set', choices=SETS)
    parser.add_argument('folder')
    parser.add_argument('--clones', metavar='DIR')
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    try:
        if os.path.lexists(folder):
            raise DataError('%s is there: remove it, or name a folder that is not' % folder)
        if not shutil.which('git'):
            raise DataError('git is missing: install it')
        with tempfile.TemporaryDirectory() as clones:
            number = build(SETS[options.set](options.clones or clones), folder)
    except (DataError, OSError) as error:
        print('error: %s' % error, file=sys.stderr)
        return 2
    print('%s: %d pictures' % (folder, number))
    return 0


if __name__ == '__main__':
    sys.exit(main())
