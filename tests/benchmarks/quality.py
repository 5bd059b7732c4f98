"""Restored faces against simple methods, on faces that none of them saw; see judge.MEASURES.

    python tests/benchmarks/quality.py [--data DIR] [--size 128] [--mask KIND] [--epoch 20] [--seeds 0 1 2]
           [--picture docs/NAME.png] [--runtime tf1|tf2]
    python tests/benchmarks/quality.py ... --vary "" "--original" "--batch 8 --lr 5e-4" "neuralnet.SMALL = 2." ...
    python tests/benchmarks/quality.py ... --checkpoints DIR ...

Trains the program with and without its adversary on all but the test part of the folder (without --data: the packaged
faces), once for each seed, and measures it on that part. With --vary it trains our program alone, for each variation,
arguments or a Python statement, and seed; with --checkpoints it trains nothing and tests what is in each folder.
"""
import argparse
import itertools
import json
import os
import tempfile

import numpy as np
from PIL import Image
from sklearn.linear_model import Ridge

import common
import datamanager
import judge
import run
from extras.faces import align
from extras.masks import Masks

ALPHAS = (10, 100, 1000, 10000)  # of ridge regression; the best on a tenth of the training faces is used
SHOWN = 6                        # faces in the picture
ACCURACIES = {'acc_real': 'accuracy, real', 'acc_fake': 'restored'}


def ridge(visible, hidden, seen):
    """What is hidden in pictures of which `seen` is visible, learnt from `visible` and `hidden`: rows of pixels."""
    bound = len(visible) - len(visible) // 10
    errors = [((Ridge(alpha).fit(visible[:bound], hidden[:bound]).predict(visible[bound:]) - hidden[bound:]) ** 2).sum()
              for alpha in ALPHAS]
    return Ridge(ALPHAS[int(np.argmin(errors))]).fit(visible, hidden).predict(seen)


def simple_methods(dataset):
    """(true, {name: restored}) of the test part, [N,H,W,C] uint8, in the order of judge.triples."""
    known, parts = dataset.images(dataset.train) / np.float32(255), []
    rows = lambda pictures: pictures.reshape(len(pictures), -1)
    groups = dataset.tests(len(dataset.test))
    for faces, mask in groups:
        true, hole = dataset.images(faces), mask[:, :, 0] > 0
        hidden, shape = rows(known[:, hole]), (len(faces), hole.sum(), true.shape[3])
        fills = [np.full(shape, judge.GREY / 255), np.broadcast_to(hidden.mean(0).reshape(shape[1:]), shape),
                 ridge(rows(known[:, ~hole]), hidden, rows(true[:, ~hole] / np.float32(255))).reshape(shape)]
        parts.append([true] + [true.copy() for _ in fills])
        for restored, fill in zip(parts[-1][1:], fills):
            restored[:, hole] = np.clip(fill, 0, 1) * 255 + .5
    order = np.argsort([dataset.names[row] + '.png' for faces, _ in groups for row in faces])
    pictures = [np.concatenate(part)[order] for part in zip(*parts)]
    return pictures[0], dict(zip(('masked', 'mean face', 'ridge regression'), pictures[1:]))


def ours(options, arguments, change=''):
    """(triples, rows of loss.csv) that the program leaves."""
    for name in ('data', 'size', 'mask', 'epoch'):
        if getattr(options, name):
            arguments = ('--' + name, getattr(options, name)) + arguments
    with tempfile.TemporaryDirectory() as folder:
        for name in ('checkpoints', 'results', 'cache'):
            arguments = ('--' + name, os.path.join(folder, name)) + arguments
        common.program('.', *arguments, runtime=options.runtime, change=change)
        log = os.path.join(folder, 'results', 'loss.csv')
        return judge.triples(os.path.join(folder, 'results')), common.read_table(log) if os.path.exists(log) else []


def accuracies(log):
    """The discriminator's accuracy on real and on restored patches over the epochs, each as 'lowest to highest'."""
    columns = [[float(row[key]) for row in log] for key in ACCURACIES]
    return ['%.2f to %.2f' % (min(values), max(values)) if any(values) else '' for values in columns]


def draw(path, columns):
    """One line a face, one column a method: each [N,H,W,C] uint8."""
    chosen = np.linspace(0, len(columns[0]) - 1, SHOWN).astype(int)
    lines = [np.concatenate([np.pad(pictures[i], [(0, 2), (0, 2), (0, 0)], 'constant', constant_values=255)
                             for pictures in columns], 1) for i in chosen]
    picture = np.concatenate(lines, 0)
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(path)


def planned(options):
    """[(title, seed or None, arguments, change)] of the runs of our program."""
    if options.checkpoints:
        return [(folder, None, ('--test_only', '--checkpoints', folder), '') for folder in options.checkpoints]
    runs = [('ours without adversary', '--adv_weight 0'), ('ours', '')]
    if options.vary:
        runs = [('`%s`' % variation if variation else 'as it is', variation) for variation in options.vary]
    runs = [(title, variation.split(), '') if variation.startswith('--') else (title, (), variation)
            for title, variation in runs]
    return [(title, seed, ('--seed', seed) + tuple(arguments), change)
            for title, arguments, change in runs for seed in options.seeds]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data')
    parser.add_argument('--size')
    parser.add_argument('--mask', help='default: what the program, or a variation, hides')
    parser.add_argument('--epoch', type=int, default=20)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--picture')
    parser.add_argument('--vary', nargs='+', metavar='VARIATION')
    parser.add_argument('--checkpoints', nargs='+', metavar='DIR')
    parser.add_argument('--runtime', choices=('tf1', 'tf2'))
    options = parser.parse_args()
    errors, columns, measured = {}, [], {}
    for number, (title, seed, arguments, change) in enumerate(planned(options)):
        pictures, log = ours(options, arguments, change)
        if not number:
            with tempfile.TemporaryDirectory() as cache:
                size = pictures[0].shape[1:3]
                mask = options.mask or 'center'
                dataset = datamanager.Dataset(options.data, size, Masks(mask, *size), cache=cache, training=False,
                                              align=align if run.aligned(options.data, size) else None)
                print('%s, mask %s: %d faces to train on, %d to test on\n' % (
                    options.data or 'packaged faces', mask, len(dataset.train), len(dataset.test)))
                print(common.table(['method'] + judge.MEASURES + list(ACCURACIES.values()), []), flush=True)
                if not options.vary and len(dataset.train):
                    true, simple = simple_methods(dataset)
                    for name, restored in simple.items():
                        values = judge.measures(true, simple['masked'], restored)
                        print(common.row([name] + judge.formatted(values) + ['', '']), flush=True)
                        columns.append((name, restored))
            columns = columns or [('masked', pictures[1])]
        values, name = judge.measures(*pictures), title if seed is None else '%s, seed %d' % (title, seed)
        print(common.row([name] + judge.formatted(values) + accuracies(log)), flush=True)
        measured.setdefault(title, []).append(values)
        columns.append((name, pictures[2]))
        errors[name] = [float(row['test_error']) for row in log]
    if len(options.seeds) > 1:
        for title, values in measured.items():
            print(common.row([title + ', mean'] + judge.formatted(np.mean(values, 0)) + ['', '']))
    if not options.checkpoints:
        print('\nTest error after each epoch:\n')
        epochs = enumerate(itertools.zip_longest(*errors.values()), 1)
        print(common.table(['epoch'] + list(errors), [
            [epoch] + ['' if value is None else '%.2f' % value for value in values] for epoch, values in epochs]))
    if options.picture:
        draw(options.picture, [pictures[0]] + [restored for _, restored in columns])
        print('\n%s, from left to right: input, %s' % (options.picture, ', '.join(name for name, _ in columns)))


if __name__ == '__main__':
    main()
