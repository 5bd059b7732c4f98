"""How well face masks are found: on faces that the finder never saw, with masks drawn on, and on faces without.

    python tests/benchmarks/facemasks.py            the shipped finder
    python tests/benchmarks/facemasks.py --held-out first learns one from surgical, cloth and black masks only: FFP2
                                                    masks and patterns are kinds that it never saw (minutes)

IoU: of the hole and the true mask grown by as much. Missed: share of the true mask that the hole leaves. Too much: what
the hole covers beyond twice the growth, relative to the true mask. Not found: masked faces taken for unmasked. False
alarms: unmasked faces taken for masked. GrabCut (Rother et al. 2004), begun from the polygon of --mask lower or from
the finder's answer, for comparison.
"""
import argparse
import os
import tempfile

import common
import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from extras import facemasks
from extras.facemasks import GROWN, KINDS, SIDE, disc, widen
from extras.faces import EYES
from extras.masks import lower_mask

HELD_OUT = ('ffp2', 'patterned')
BAND = 13  # pixels around the start that GrabCut may add


def grabcut(face, start, core):
    """[SIDE,SIDE,1] uint8: the hole that GrabCut finds, begun from `start`, whose core is sure; the eyes are not."""
    state = np.full((SIDE, SIDE), cv2.GC_BGD, np.uint8)
    state[cv2.dilate(start, disc(2 * BAND + 1)) > 0] = cv2.GC_PR_BGD
    state[start[:, :, 0] > 0] = cv2.GC_PR_FGD
    state[cv2.erode(start, disc(core)) > 0] = cv2.GC_FGD
    state[:int(EYES[0][1] * SIDE)] = cv2.GC_BGD
    if not (state == cv2.GC_FGD).any():
        return np.zeros((SIDE, SIDE, 1), np.uint8)
    cv2.grabCut(face.copy(), state, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    found = np.uint8((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD))
    return widen(cv2.morphologyEx(found, cv2.MORPH_CLOSE, disc(5)))[:, :, None]


def measure(find, faces, masks):
    """[IoU, missed, too much, not found], shares, mean over faces."""
    rows = []
    for face, mask in zip(faces, masks):
        hole, mask = find(face)[:, :, 0], mask[:, :, 0]
        grown = widen(mask)
        rows.append(((hole & grown).sum() / max(1., (hole | grown).sum()), (mask & ~hole & 1).sum() / mask.sum(),
                     (hole & ~cv2.dilate(mask, disc(4 * GROWN + 1)) & 1).sum() / mask.sum(), not hole.any()))
    return np.mean(rows, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default=os.path.join(common.DATA, 'open'), help='aligned, unmasked faces')
    parser.add_argument('--count', type=int, default=100, help='faces of the test part, each with each kind of mask')
    parser.add_argument('--held-out', action='store_true')
    parser.add_argument('--weights', default=facemasks.WEIGHTS)
    options = parser.parse_args()
    tf.disable_v2_behavior()
    faces = facemasks.load_faces(options.data)
    train, test = facemasks.split(faces)
    test = test[:options.count]
    with tempfile.TemporaryDirectory() as folder:
        path = options.weights
        if options.held_out:
            path = os.path.join(folder, 'held_out.npz')
            facemasks.learn(train, path, [kind for kind in KINDS if kind not in HELD_OUT])
        network = lambda face: facemasks.find_mask(face, path)
        lower = lower_mask(SIDE, SIDE)
        finders = (('polygon', lambda face: lower), ('GrabCut from polygon', lambda face: grabcut(face, lower, 25)),
                   ('network', network), ('GrabCut from network', lambda face: grabcut(face, network(face), 13)))
        rows = []
        for kind in KINDS:
            random = np.random.RandomState(1)
            drawn = [facemasks.draw_mask(face, random, (kind,)) for face in test]
            for name, find in finders:
                values = measure(find, *zip(*drawn))
                rows.append((kind, name, '%.3f' % values[0]) + tuple('%.1f %%' % (100 * value) for value in values[1:]))
        print(common.table(('masks', 'found by', 'IoU', 'missed', 'too much', 'not found'), rows))
        print('false alarms of the network on %d unmasked faces: %.1f %%' % (
            len(test), 100 * np.mean([network(face).any() for face in test])))


if __name__ == '__main__':
    main()
