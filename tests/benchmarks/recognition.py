"""Is a restored face worth anything for recognising people? dlib's recogniser is asked, on the 40 packaged people.

    python tests/benchmarks/recognition.py [--checkpoints DIR] [--runtime tf1|tf2]

As in a face-recognition system, the gallery holds one whole picture of each person, and each other picture, the probe,
is named after the nearest: whole, masked, filled smoothly, restored. The included model never saw these people.
"""
import argparse
import os
import tempfile

import numpy as np

import common
import datamanager
import judge
from extras.faces import harmonic
from extras.masks import make_mask


def restorations(mask, checkpoints, runtime=None):
    """(who [N], true, masked, restored [N,H,W,1] uint8) of all packaged pictures in which a face is found, aligned."""
    root, names = datamanager.packaged_faces()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            link = os.path.join(folder, 'data', 'test', name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.join(root, name), link)
        common.program(folder, '--test_only', '--align', '--data', 'data', '--mask', mask, '--checkpoints', checkpoints,
                       runtime=runtime)
        results = os.path.join(folder, 'results')
        return (np.array([name.split('_')[1] for name in judge.names(results)]),) + tuple(judge.triples(results))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--checkpoints', type=os.path.abspath, default=os.path.join(common.ROOT, 'checkpoints', 'faces128'))
    parser.add_argument('--runtime', choices=('tf1', 'tf2'))
    options = parser.parse_args()
    print('Rank-1 among 40 people:\n')
    print(common.table(['mask', 'whole', 'masked', 'filled smoothly', 'restored', 'probes'], []), flush=True)
    recogniser = judge.Recogniser()
    for mask in ('lower', 'center'):
        who, whole, masked, restored = restorations(mask, options.checkpoints, options.runtime)
        hole = make_mask(mask, *whole.shape[1:3])[:, :, 0] > 0
        smooth = np.array([harmonic(face.astype(float), hole) for face in whole])
        places = np.array(judge.places(recogniser.found(whole)))
        people, gallery = np.unique(who, return_index=True)
        probes = np.setdiff1d(np.arange(len(who)), gallery)
        _, known = recogniser.look(whole[gallery], places[gallery])
        shares = []
        for pictures in (whole, masked, (smooth + .5).astype(np.uint8), restored):
            _, asked = recogniser.look(pictures[probes], places[probes])
            named = people[judge.distances(asked, known).argmin(1)]
            shares.append('%.1f %%' % (100 * np.mean(named == who[probes])))
        print(common.row([mask] + shares + [len(probes)]), flush=True)


if __name__ == '__main__':
    main()
