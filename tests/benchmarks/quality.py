"""Restored faces against simple methods and the plain baseline, on faces that none of them saw.

    python tests/benchmarks/quality.py --data ../shared/faces/influencers [--mask center|lower] [--seeds 0 1 2]
           [--epoch 20] [--size 128] [--baseline] [--picture docs/NAME.png] [--runtime tf1|tf2]
    python tests/benchmarks/quality.py ... --vary "" "--batch 8 --lr 5e-4" "neuralnet.BLENDED = 0" ...

Trains the program with and without its adversary on all but the last tenth of the folder (without --data: the packaged
faces), once for each seed, and prints, over the held-out faces: squared error in the hole; PSNR there; SSIM;
sharpness, the mean gradient in the hole, and rim, the mean jump across its edge, both relative to the true pictures'
(1 is perfect). With --vary it trains our program alone, once for each variation, arguments or a Python statement.
"""
import argparse
import json
import os
import tempfile

import numpy as np
from PIL import Image
from sklearn.linear_model import Ridge

import common
import datamanager

ALPHAS = (10, 100, 1000, 10000)  # of ridge regression; the best on a tenth of the training faces is used
SHOWN = 6                        # faces in the picture
WITH, WITHOUT = 'ours', 'ours without adversary'
MEASURES = ['error', 'PSNR in the hole, dB', 'SSIM', 'sharpness', 'rim']
PLAYERS = ['accuracy, real', 'restored']


def steps(pictures, hole, across):
    """Mean absolute difference of neighbours in the hole, or of those across its rim."""
    differences = []
    for axis in (0, 1):
        pairs = np.moveaxis(hole, axis, 0).astype(int)
        pairs = (pairs[1:] != pairs[:-1]) if across else (pairs[1:] & pairs[:-1]) > 0
        differences.append(np.moveaxis(np.abs(np.diff(pictures, axis=axis + 1)), axis + 1, 1)[:, pairs])
    return np.mean(np.concatenate([d.ravel() for d in differences]))


def measures(true, restored, hole):
    """[error, PSNR, SSIM, sharpness, rim] of float pictures [N,H,W,C] in [0, 1]; hole [H,W] bool."""
    import tensorflow.compat.v1 as tf
    squares = ((true - restored) ** 2).sum((1, 2, 3))
    psnr = -10 * np.log10(squares / (hole.sum() * true.shape[3])).mean()
    with tf.Graph().as_default(), tf.Session() as session:
        ssim = session.run(tf.image.ssim(tf.constant(true, tf.float32), tf.constant(restored, tf.float32), 1.)).mean()
    return [squares.mean(), psnr, ssim] + [steps(restored, hole, across) / steps(true, hole, across)
                                           for across in (False, True)]


def formatted(values):
    """The MEASURES as strings."""
    return ('%.2f %.2f %.4f %.3f %.3f' % tuple(values)).split()


def simple_methods(train, test, hole):
    """{name: restored float pictures} of the mean face, the harmonic fill and ridge regression."""
    import tf_process
    filled = {'mean face': np.broadcast_to(train.mean(0)[hole], (len(test), hole.sum(), train.shape[3])),
              'harmonic fill': np.array([tf_process.harmonic(face.astype(float), hole)[hole] for face in test])}
    visible, hidden = train[:, ~hole].reshape(len(train), -1), train[:, hole].reshape(len(train), -1)
    bound = len(train) - len(train) // 10
    errors = [((Ridge(alpha).fit(visible[:bound], hidden[:bound]).predict(visible[bound:]) - hidden[bound:]) ** 2).sum()
              for alpha in ALPHAS]
    alpha = ALPHAS[int(np.argmin(errors))]
    filled['ridge regression, alpha %d' % alpha] = Ridge(alpha).fit(visible, hidden).predict(
        test[:, ~hole].reshape(len(test), -1)).reshape(len(test), hole.sum(), -1)
    restored = {}
    for name, fill in filled.items():
        restored[name] = test.copy()
        restored[name][:, hole] = np.clip(fill, 0, 1)
    return restored


def train(options, seed, *arguments, change=''):
    """(restored float pictures, rows of loss.csv) of the program."""
    arguments += ('--epoch', options.epoch, '--mask', options.mask, '--seed', seed)
    if options.data:
        arguments += ('--data', options.data, '--size', options.size)
    with tempfile.TemporaryDirectory() as folder:
        common.program(folder, *arguments, runtime=options.runtime, change=change)
        names = [row['image'] for row in common.read_table(os.path.join(folder, 'results', 'test.csv'))]
        pictures = [np.asarray(Image.open(os.path.join(folder, 'results', 'test', name + '.png'))) for name in names]
        log = common.read_table(os.path.join(folder, 'results', 'loss.csv'))
    pictures = np.array(pictures).reshape((len(names),) + pictures[0].shape[:2] + (-1,)) / np.float32(255)
    return np.split(pictures, 3, axis=2)[2], log


def accuracies(log):
    """The discriminator's accuracy on real and on restored windows over the epochs, each as 'lowest to highest'."""
    columns = [[float(row[key]) for row in log] for key in ('acc_real', 'acc_fake')]
    return ['%.2f to %.2f' % (min(values), max(values)) for values in columns]


def vary(options, true, hole):
    """Print a table of the program's variations, each row as soon as it is known."""
    for seed in options.seeds:
        print('Seed %d:\n\n' % seed + common.table(['variation'] + MEASURES + PLAYERS, []), flush=True)
        for variation in options.vary:
            arguments, change = (variation.split(), '') if variation.startswith('--') else ((), variation)
            restored, log = train(options, seed, *arguments, change=change)
            title = '`%s`' % variation if variation else 'as it is'
            print(common.row([title] + formatted(measures(true, restored, hole)) + accuracies(log)), flush=True)
        print()


def draw(path, true, hole, methods):
    """One line a face: input, masked, each method."""
    masked = np.where(hole[:, :, None], .5, true)
    chosen = np.linspace(0, len(true) - 1, SHOWN).astype(int)
    lines = [np.concatenate([np.pad(pictures[i], [(0, 2), (0, 2), (0, 0)], 'constant', constant_values=1)
                             for pictures in [true, masked] + methods], 1) for i in chosen]
    picture = (np.concatenate(lines, 0) * 255 + .5).astype(np.uint8)
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data')
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--mask', default='center', choices=('center', 'lower'))
    parser.add_argument('--epoch', type=int, default=20)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--baseline', action='store_true', help='train ../shared/baseline, too (slow)')
    parser.add_argument('--picture')
    parser.add_argument('--vary', nargs='+', metavar='VARIATION')
    parser.add_argument('--runtime', choices=('tf1', 'tf2'))
    options = parser.parse_args()
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    options.data = options.data and os.path.abspath(options.data)
    with tempfile.TemporaryDirectory() as cache:
        size = (options.size, options.size) if options.data else None
        dataset = datamanager.Dataset(options.data, size, options.mask, cache=cache)
        known, true = [dataset.images(rows) / np.float32(255) for rows in (dataset.train, dataset.test)]
    hole = dataset.test_mask[:, :, 0] > 0
    print('%s, mask %s, %d epochs: %d faces to train on, %d to test on\n' % (
        options.data or 'packaged faces', options.mask, options.epoch, len(known), len(true)), flush=True)
    if options.vary:
        return vary(options, true, hole)
    restored, logs, runs = simple_methods(known, true, hole), {}, {}
    for method, arguments in ((WITHOUT, ('--adv_weight', 0)), (WITH, ())):
        runs[method] = ['%s, seed %d' % (method, seed) for seed in options.seeds]
        for name, seed in zip(runs[method], options.seeds):
            restored[name], logs[name] = train(options, seed, *arguments)
    measured = {name: measures(true, pictures, hole) for name, pictures in restored.items()}
    print(common.table(['method'] + MEASURES, [[name] + formatted(values) for name, values in measured.items()]))
    errors = {method: np.mean([measured[name][0] for name in names]) for method, names in runs.items()}
    print('\nThe error with the adversary is %.1f %% above that without, means over the seeds.' % (
        100 * (errors[WITH] / errors[WITHOUT] - 1)))
    print('\nAccuracy of the discriminator over the epochs, lowest to highest:\n')
    print(common.table(['run'] + PLAYERS, [[name] + accuracies(logs[name]) for name in runs[WITH]]))
    columns = {name: [float(row['test_error']) for row in log] for name, log in logs.items()}
    if options.baseline and options.data and options.mask == 'center':
        output = json.loads(common.call([
            common.python(options.runtime), common.BASELINE, '--data', options.data, '--size', options.size,
            '--epoch', options.epoch, '--trace', 0], '.').strip().split('\n')[-1])
        # It makes three equal channels of a grey picture.
        columns['baseline'] = [error * dataset.shape[2] / 3 for error in output['test_error']]
    print('\nTest error after each epoch:\n')
    print(common.table(['epoch'] + list(columns), [
        [epoch + 1] + ['%.2f' % values[epoch] for values in columns.values()] for epoch in range(options.epoch)]))
    if options.picture:
        names = [name for name in restored if name not in logs] + [names[0] for names in runs.values()]
        draw(options.picture, true, hole, [restored[name] for name in names])
        print('\n%s, from left to right: input, masked, %s' % (options.picture, ', '.join(names)))


if __name__ == '__main__':
    main()
