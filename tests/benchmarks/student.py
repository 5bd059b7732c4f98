"""The student project's loop around its own network, extras/original.py: what speed.py compares with.

    python tests/benchmarks/student.py --data FOLDER [--epoch 1] [--minutes M] [--batch 64] [--size 128] [--no-trace]

It does what a first program does: decodes all images anew in each epoch on the main thread, scales each batch by its own
least and largest value, drops what is left over of the last batch, traces each step, runs the graph a second time to read
the losses, and tests one face at a time. The last tenth of FOLDER by path is the test. Prints one line of JSON.
"""
import argparse
import json
import os
import resource
import time

import numpy as np
import tensorflow.compat.v1 as tf

import common
import datamanager
import tf_process
from extras.masks import random_mask
from extras.original import Original


def read(paths, size):
    """[N,size,size,3] uint8, from 0 to 255."""
    batch = np.array([datamanager.load_image(path, size, size, 3) for path in paths]).astype(np.float32)
    return (255 * (batch - batch.min()) / max(batch.max() - batch.min(), 1)).astype(np.uint8)


def train(session, network, paths, options, random):
    """One epoch; returns how many images it saw."""
    trace = [tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), tf.RunMetadata()] if options.trace else []
    paths = list(random.permutation(paths))
    steps = len(paths) // options.batch
    for step in range(steps):
        feed = {network.images: read(paths[step * options.batch:(step + 1) * options.batch], options.size),
                network.mask: random_mask(options.size, options.size, random), network.learning_rate: 1e-4}
        session.run(network.update, feed, *trace)
        session.run(network.losses, feed)
    return steps * options.batch


def test(session, network, paths, size):
    """Mean over the faces of the squared error in the centre hole."""
    mask, errors = datamanager.center_mask(size, size), []
    for path in paths:
        image = read([path], size)
        restored = session.run(network.restored, {network.images: image, network.mask: mask})
        errors.append(tf_process.measure(image, restored, mask)[0, 0])
    return float(np.mean(errors))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    for name, value in (('epoch', 1), ('batch', 64), ('size', 128)):
        parser.add_argument('--' + name, type=int, default=value)
    parser.add_argument('--minutes', type=float, default=float('inf'), help='begin no epoch after so many')
    parser.add_argument('--no-trace', dest='trace', action='store_false')
    options = parser.parse_args()
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    names = [name for name in datamanager.find_files(options.data) if datamanager.named_like_image(name)]
    parts = [[os.path.join(options.data, names[row]) for row in rows] for rows in datamanager.split(names)]
    began = time.time()
    network = Original((options.size, options.size, 3))
    figures, seconds, testing, errors, seen = {}, [], 0, [], 0
    with tf_process.open_session() as session:
        figures['graph_seconds'] = time.time() - began
        random, spent = np.random.RandomState(0), 0
        while len(errors) < options.epoch and spent + testing < 60 * options.minutes:
            began = time.time()
            seen += train(session, network, parts[0], options, random)
            spent, began = spent + time.time() - began, time.time()
            errors.append(round(test(session, network, parts[1], options.size), 2))
            testing += time.time() - began
            seconds.append(round(spent + testing, 1))
    figures.update(train_images_per_second=seen / spent, test_seconds_per_image=testing / len(parts[1]) / len(errors),
                   peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, seconds=seconds, test_error=errors)
    print(json.dumps(figures))


if __name__ == '__main__':
    main()
