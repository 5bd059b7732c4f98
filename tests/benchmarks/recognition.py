"""Is a restored face worth anything for recognising people? Eigenfaces, on the 40 people of the packaged faces.

    python tests/benchmarks/recognition.py [--epoch 10] [--runtime tf1|tf2]

The people are cut in two halves. The network is trained on one half and restores the other, which it never saw, then
the other way round. In each half a classifier (Turk & Pentland 1991: PCA, then a linear classifier) learns each
person from five whole pictures, and is asked to name the other five: whole, masked, filled smoothly, restored.
"""
import argparse
import os
import tempfile

import numpy as np

import common
import datamanager
import tf_process
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from PIL import Image

LEARNT = 5  # pictures of each person that the classifier learns from


def halves():
    """The people's folders, [40] names, in two halves."""
    people = sorted({name.split(os.sep)[0] for name in datamanager.find_files(datamanager.packaged_faces())
                     if name.endswith('.pgm')})
    return people[::2], people[1::2]


def restorations(folder, learnt, restored, mask, arguments, runtime):
    """(who [N], whole, masked, restored [N,H,W] uint8) of the people `restored`, by a network trained on `learnt`."""
    root = datamanager.packaged_faces()
    for part, people in (('train', learnt), ('test', restored)):
        for person in people:
            os.makedirs(os.path.join(folder, 'data', part, person))
            for name in sorted(os.listdir(os.path.join(root, person))):
                if name.endswith('.pgm'):
                    os.symlink(os.path.join(root, person, name), os.path.join(folder, 'data', part, person, name))
    common.program(folder, '--data', 'data', '--size', '112x92', '--mask', mask, *arguments, runtime=runtime)
    names = [row['image'] for row in common.read_table(os.path.join(folder, 'results', 'test.csv'))]
    pictures = np.array([np.asarray(Image.open(os.path.join(folder, 'results', 'test', name + '.png')))
                         for name in names])
    return (np.array([name.split('_')[1] for name in names]),) + tuple(np.split(pictures, 3, axis=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epoch', type=int, default=10)
    parser.add_argument('--runtime', choices=('tf1', 'tf2'))
    options = parser.parse_args()
    kinds, rows = ('whole', 'masked', 'filled smoothly', 'restored'), []
    for mask in ('lower', 'center'):
        right = {kind: [] for kind in kinds}
        for learnt, restored in (halves(), halves()[::-1]):
            with tempfile.TemporaryDirectory() as folder:
                who, whole, masked, filled = restorations(
                    folder, learnt, restored, mask, ('--epoch', options.epoch), options.runtime)
            hole = datamanager.make_mask(mask, *whole.shape[1:])[:, :, 0] > 0
            smooth = tf_process.harmonic(whole.transpose(1, 2, 0).astype(float), hole).transpose(2, 0, 1)
            seen = np.arange(len(who)) % 10 < LEARNT  # ten pictures of each person, in order
            flat = lambda pictures: pictures.reshape(len(pictures), -1) / 255.
            classifier = make_pipeline(PCA(50, whiten=False, random_state=0), StandardScaler(),
                                       LogisticRegression(max_iter=1000))
            classifier.fit(flat(whole[seen]), who[seen])
            for kind, pictures in zip(kinds, (whole, masked, smooth, filled)):
                right[kind] += list(classifier.predict(flat(pictures[~seen])) == who[~seen])
        rows.append([mask] + ['%.1f %%' % (100 * np.mean(right[kind])) for kind in kinds] + [len(right['whole'])])
    print('Share of faces named rightly, among 20 people, network trained for %d epochs on 20 others:\n' % options.epoch)
    print(common.table(('mask',) + kinds + ('faces',), rows))


if __name__ == '__main__':
    main()
