"""What becomes of ordinary photos: are faces found, and is what is painted a face, and that person's?

    python tests/benchmarks/photos.py --out FOLDER [--checkpoints DIR] [--photos DIR] [--masked DIR] [--faces DIR]
           [--picture docs/unmask.jpg]

Real portraits, --photos: `lower` and `center` of each face are hidden and restored, and judged (judge.py) against the
hole left grey, a smooth fill and the mean of the faces in --faces, cut out of the photo at 256x256 (--side). People with face masks, --masked: the share in
which a face is found, and in which dlib's detector finds one in the frame before and afterwards. Sheets of all: the
photo, what the network saw, the hole, the result, in FOLDER, which should lie outside the project.
"""
import argparse
import os

import numpy as np
from PIL import Image

import common
import datamanager
import judge
import neuralnet
import tensorflow.compat.v1 as tf
import tf_process
from extras import faces, facemasks, models, photos

SHOWN = 6  # portraits in the picture


def restored(session, network, paths, mask, side, out):
    """(found, done): numbers of photos with a face and with one restored; and of the first face of each of the latter
    [true, masked, restored], each [N,side,side,3] uint8 in the network's frame. Writes a sheet of all faces."""
    shape, tiles, frames, found, done = network.images.shape.as_list()[1:], [], [], 0, 0
    for photo in photos.Photos(paths, mask, tuple(shape), 'results'):
        if isinstance(photo, str):
            print(photo)
            continue
        found += photo.found > 0
        done += photo.done > 0
        pixels = photos.paint(session, network, photo)
        tiles += [photos.stages(photo, frame, pixels) for frame in photo.frames]
        if photo.done and pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
            matrix, size = photo.frames[0].matrix @ np.diag([shape[1] / side, shape[0] / side, 1]), (side, side)
            true, after = [np.broadcast_to(faces.view(each, photo.hole * 0, matrix, size), size + (3,))
                           for each in (photo.seen, pixels)]
            hole = (faces.warp(photo.hole * np.uint8(255), matrix, size) > 127).astype(np.uint8)
            frames.append((true, tf_process.masked(true, hole), after))
    for first in range(0, len(tiles), tf_process.GRID):
        tf_process.write_png('%s_%d.png' % (out, first // tf_process.GRID),
                             tf_process.sheet(tiles[first:first + tf_process.GRID]))
    return found, done, [np.array(each) for each in zip(*frames)]


def mean_face(folder, size):
    """[H,W,3] uint8: the mean of a folder of aligned faces."""
    return np.mean([datamanager.load_image(os.path.join(folder, name), size[0], size[1], 3)
                    for name in datamanager.find_files(folder)], 0).astype(np.uint8)


def draw(session, network, paths, picture):
    """SHOWN portraits, one a column: as they are, with a face mask drawn on, and unmasked."""
    random, (height, width, _) = np.random.RandomState(1), network.images.shape.as_list()[1:]
    columns = []
    for path in [paths[i] for i in np.linspace(0, len(paths) - 1, SHOWN).astype(int)]:
        true = datamanager.load_image(path, height, width, 3, faces.align)
        worn, _ = facemasks.draw_mask(true, random)
        hole = facemasks.find_mask(worn)
        restored = session.run(network.restored, {network.images: worn[None], network.mask: hole})[0]
        columns.append(np.concatenate([true, worn, tf_process.to_bytes(restored)]))
    Image.fromarray(np.concatenate(columns, 1)).save(picture, quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', required=True)
    parser.add_argument('--picture', metavar='JPG', help='draw face masks on some portraits and take them off again')
    parser.add_argument('--checkpoints', default=models.FINE)
    parser.add_argument('--side', type=int, default=256, help='pixels at which a face is judged')
    for name, folder in (('photos', 'photos'), ('masked', 'masked'), ('faces', 'open')):
        parser.add_argument('--' + name, default=os.path.join(common.DATA, folder))
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    paths = {name: [os.path.join(folder, file) for file in datamanager.find_files(folder)
                    if datamanager.named_like_image(file)]
             for name, folder in (('photos', options.photos), ('masked', options.masked))}
    kept = models.settings(options.checkpoints)
    shape = tuple(kept['size']) + (kept['channels'],)
    network = neuralnet.ContextEncoder(shape, devices=())
    with tf_process.open_session() as session:
        models.load(session, network, options.checkpoints)
        if options.picture:
            draw(session, network, paths['photos'], options.picture)
        for mask in ('lower', 'center'):
            found, _, (true, masked, after) = restored(
                session, network, paths['photos'], mask, options.side, os.path.join(options.out, mask))
            holes = judge.find_holes(true, masked)
            smooth = np.array([faces.harmonic(each.astype(float), hole) for each, hole in zip(true, holes)]).astype(np.uint8)
            mean = np.where(holes[..., None], mean_face(options.faces, (options.side, options.side)), true)
            print('Portraits, mask %s: a face found in %d of %d.\n' % (mask, found, len(paths['photos'])))
            print(common.table(['hole'] + judge.MEASURES, [
                [name] + judge.formatted(judge.measures(true, masked, pictures)) for name, pictures in (
                    ('grey', masked), ('smooth fill', smooth), ('mean face', mean), ('restored', after))]) + '\n',
                flush=True)
        found, done, (true, _, after) = restored(session, network, paths['masked'], facemasks.find_mask, options.side,
                                                 os.path.join(options.out, 'unmasked'))
    seen = [np.mean([place is not None for place in judge.Recogniser().found(each)]) for each in (true, after)]
    print('Face masks: a face found in %d of %d, unmasked in %d; of these dlib\'s detector found a face in %.0f %% '
          'before, in %.0f %% afterwards.' % ((found, len(paths['masked']), done) + tuple(100 * share for share in seen)))
    print('Sheets: %s' % options.out)


if __name__ == '__main__':
    main()
