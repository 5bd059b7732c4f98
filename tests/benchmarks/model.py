"""The included models: trained again, and measured on the tenth of each source that they never saw.

    python tests/benchmarks/model.py --data data/open --train DIR                 train checkpoints/faces128 again
    python tests/benchmarks/model.py --data data/open256 --size 256 --train DIR   checkpoints/faces256, which grows from it
    python tests/benchmarks/model.py --data data/open                             the tables of docs/model.md; with
                                     --data data/open256 --size 256 those of faces256

A source is what the files' names begin with, up to the first '_'. --train leaves the model in DIR/model.
"""
import argparse
import itertools
import json
import os
import shutil
import tempfile

import numpy as np
from PIL import Image

import common
import judge
import tensorflow.compat.v1 as tf
from data import SOFT, SOURCES
from extras import facemasks, models

MASKS = 'center,lower,free'
WORN = 300  # holes of drawn face masks that it is trained on, too
SMALL = os.path.join(common.ROOT, 'checkpoints', 'faces128')
GROWN = '--size', 256, '--epoch', 12, '--batch', 8
TRAINING = {128: [('--epoch', 40, '--batch', 8)],  # trainings, one after another
            256: [GROWN + ('--lr', 4e-4, '--adv_weight', 2, '--init', SMALL),
                  GROWN + ('--lr', 4e-4, '--adv_weight', 4, '--init', 'checkpoints0'),
                  GROWN + ('--lr', 1.5e-4, '--adv_weight', 3, '--init', SMALL)]}
AVERAGED = {128: [0], 256: [1, 2]}  # the model is the mean of these
REPEATED = {'18f': 4}  # times a face of this source comes in an epoch: photos like those that people have are few
SHOWN = 6  # faces on the sheet: the worst, the best, and some between
MAY_BE_SHOWN = '18f', 'congress', 'sd3', 'sfhq', 't2i'


def source(name):
    return name.split('_')[0]


def enlarged():
    """Names of the faces of 256x256 pixels whose source has fewer: they would teach blur."""
    return {os.path.basename(row['file']) for row in common.read_table(SOURCES, '\t')
            if row['transform'] and np.hypot(*[float(part) for part in row['transform'].split()[:2]]) > SOFT}


def split(data, folder, side):
    """Link the images of `data` into folder/train, as REPEATED says, and every tenth of each source into folder/test.

    Of faces of 256 pixels a `side` the enlarged ones are left out.
    """
    soft = enlarged() if side == 256 else ()
    names = sorted(name for name in os.listdir(data) if name.lower().endswith(('.jpg', '.png')))
    for part in ('train', 'test'):
        os.makedirs(os.path.join(folder, part))
    for _, group in itertools.groupby(names, source):
        for number, name in enumerate(group):
            part, times = ('test', 1) if number % 10 == 9 else ('train', REPEATED.get(source(name), 1))
            for again in range(times * (name not in soft)):
                os.symlink(os.path.join(os.path.abspath(data), name), os.path.join(folder, part, again * 'again_' + name))


def worn_masks(folder, side):
    """Write holes as --unmask finds them, PNGs, to train on."""
    os.makedirs(folder)
    random, face = np.random.RandomState(0), np.full((side, side, 3), 128, np.uint8)
    for number in range(WORN):
        hole = facemasks.widen(facemasks.draw_mask(face, random)[1])
        Image.fromarray(255 * hole).save(os.path.join(folder, '%03d.png' % number))


def train(data, folder, side, runtime):
    """Train as TRAINING says and export the model. The same command goes on where it stopped."""
    faces, worn, model = [os.path.join(folder, name) for name in ('faces', 'worn', 'model')]
    if not os.path.exists(os.path.join(folder, 'checkpoints0', 'checkpoint')):
        for part in faces, worn:  # of a run that was stopped before its first epoch was done
            shutil.rmtree(part, ignore_errors=True)
        split(data, faces, side)
        worn_masks(worn, side)
    for number, arguments in enumerate(TRAINING[side]):
        common.program(folder, '--data', faces, '--mask', MASKS + ',' + worn, '--checkpoints', 'checkpoints%d' % number,
                       '--results', 'results%d' % number, *arguments, runtime=runtime)
    exports = [os.path.join(folder, 'export%d' % number) for number in AVERAGED[side]]
    for number, export in zip(AVERAGED[side], exports):  # by TensorFlow 1.14: both can serve that
        common.program(folder, '--checkpoints', 'checkpoints%d' % number, '--export', export, runtime='tf1')
    average(exports, model)
    path = os.path.join(model, 'config.json')
    with open(path) as file:
        config = dict(json.load(file), mask=MASKS)  # not the folder, which nobody else has
    with open(path, 'w') as file:
        json.dump(config, file, indent=1, sort_keys=True)


def average(exports, model):
    """Write the first of `exports`, exported models, to the folder `model`, with the means of the weights of all.

    Of trainings from one beginning (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482): the faults that
    each adversary let pass differ, and fade in the mean.
    """
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(exports[0], model)
    readers = [tf.train.load_checkpoint(*models.exported(export)) for export in exports]
    with tf.Graph().as_default(), tf.Session() as session:
        mean = lambda name: np.mean([reader.get_tensor(name).astype(np.float32) for reader in readers], 0)
        saver = tf.train.Saver([tf.get_variable(name, initializer=mean(name).astype(np.float16))
                                for name in readers[0].get_variable_to_shape_map()])
        session.run(tf.global_variables_initializer())
        saver.save(session, *models.exported(model), write_meta_graph=False, write_state=False)


def report(options, faces, folder):
    """Print a table for each mask, a row a source; draw the sheet of the centre mask."""
    for mask in MASKS.split(','):
        results = os.path.join(folder, mask)
        common.program(folder, '--test_only', '--data', faces, '--mask', mask, '--results', results, '--checkpoints',
                       os.path.abspath(options.checkpoints), runtime=options.runtime)
        pictures = judge.triples(results)
        sources = np.array([source(name[len('test_'):]) for name in judge.names(results)])
        print('\nMask %s:\n\n%s' % (mask, common.table(['faces', 'number'] + judge.MEASURES, [])), flush=True)
        true, masked, _ = pictures
        print(common.row(['grey holes', len(true)] + judge.formatted(judge.measures(true, masked, masked))), flush=True)
        for name in ['all'] + sorted(set(sources)) * (options.size == 128):  # at 256 a row takes minutes
            chosen = [part[(sources == name) | (name == 'all')] for part in pictures]
            print(common.row([name, len(chosen[0])] + judge.formatted(judge.measures(*chosen))), flush=True)
        if options.sheet and mask == 'center':
            shown = np.flatnonzero(np.isin(sources, MAY_BE_SHOWN))
            error = ((pictures[0][shown].astype(float) - pictures[2][shown]) ** 2).sum((1, 2, 3))
            ranks = shown[np.argsort(-error)[np.unique(np.linspace(0, len(error) - 1, SHOWN).astype(int))]]
            lines = [np.concatenate(list(part[ranks]), 1) for part in pictures]
            Image.fromarray(np.concatenate(lines, 0)).save(options.sheet, quality=90)
            print('\n%s: from the worst to the best of %d by error: true, hidden, restored' % (options.sheet, len(shown)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', required=True)
    parser.add_argument('--train', metavar='DIR')
    parser.add_argument('--size', type=int, choices=(128, 256), default=128)
    parser.add_argument('--checkpoints', metavar='DIR', help='the model to measure, instead of the included one')
    parser.add_argument('--sheet', metavar='JPG')
    parser.add_argument('--runtime', choices=('tf1', 'tf2'))
    options = parser.parse_args()
    if options.train:
        train(options.data, os.path.abspath(options.train), options.size, options.runtime)
        return
    options.checkpoints = options.checkpoints or os.path.join(common.ROOT, 'checkpoints', 'faces%d' % options.size)
    with tempfile.TemporaryDirectory() as folder:
        faces = os.path.join(folder, 'faces')
        split(options.data, faces, options.size)
        report(options, faces, folder)


if __name__ == '__main__':
    main()
