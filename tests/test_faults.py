"""What machines and people do to a run. `make soak` does the first at length, and kills runs at random moments."""
import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from PIL import Image

import datamanager
import neuralnet
import run as front_door
import soak
import tf_process
from conftest import ROOT, face_paths, run
from extras import models, photos
from extras.masks import make_mask, mask_files


def test_damaged_images_load_or_are_skipped():
    outcomes = soak.damaged(600, seed=1)
    assert outcomes['skipped'] > 100 and outcomes['loaded'] > 10


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for 300 kB."""
    folder = tmp_path / 'small disk'
    folder.mkdir()
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(folder)], stderr=subprocess.DEVNULL):
        pytest.skip('only root can mount a small disk')
    yield folder
    subprocess.check_call(['umount', str(folder)])


@pytest.mark.parametrize('option', ['--cache', '--checkpoints', '--results', '--restore'])
def test_a_full_disk_gets_a_sentence_and_loses_nothing(tmp_path, small_disk, trained, option):
    shutil.copytree(str(trained[0]), str(tmp_path / 'run'))
    os.remove(str(tmp_path / 'run' / 'results' / 'test.csv'))
    (small_disk / 'test').mkdir()
    (small_disk / 'test' / 'kept.png').write_bytes(b'of an earlier test')
    (small_disk / 'test_grid.png').write_bytes(b'')
    arguments = {'--cache': ['--size', 40, '--cache', small_disk],
                 '--checkpoints': ['--size', 32, '--checkpoints', small_disk, '--results', 'fresh'],
                 '--results': ['--test_only', '--results', small_disk],
                 '--restore': ['--restore', 'big.png', '--results', small_disk]}[option]
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (500, 500, 3)).astype(np.uint8)).save(
        str(tmp_path / 'run' / 'big.png'))
    if option == '--results':  # almost full before
        (small_disk / 'filler').write_bytes(bytes(200000))
    process = run(tmp_path / 'run', '--epoch', 1, *arguments)
    assert process.returncode == 2 and 'Traceback' not in process.stderr, process.stderr
    assert 'No space left' in process.stderr and str(small_disk) in process.stderr
    assert ('name another --cache' if option == '--cache' else 'free space') in process.stderr
    assert (small_disk / 'test' / 'kept.png').read_bytes() == b'of an earlier test'
    left = [name for _, folders, names in os.walk(str(small_disk)) for name in folders + names]
    assert not [name for name in left if 'part' in name or 'temp' in name], left


def test_only_a_full_disk_asks_for_space(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(tf_process.RunError, match='Not a directory.*name another folder') as told:
        models.writable(str(tmp_path / 'file' / 'results'))
    assert 'free space' not in str(told.value)


BUSY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
static int busy(const char *path) { return strstr(path, ".part.old") || strstr(path, "replaced") || strstr(path, "kept.png"); }
int rmdir(const char *path) {
    if (busy(path)) { errno = ENOTEMPTY; return -1; }
    return ((int (*)(const char *))dlsym(RTLD_NEXT, "rmdir"))(path);
}
int unlinkat(int folder, const char *path, int flags) {
    if (busy(path)) { errno = EBUSY; return -1; }
    return ((int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat"))(folder, path, flags);
}
"""


def preloaded(folder, code):
    """The environment in which a library of that C code comes before the system's."""
    (folder / 'library.c').write_text(code)
    if subprocess.call(['gcc', '-shared', '-fPIC', '-o', str(folder / 'library.so'), str(folder / 'library.c'), '-ldl']):
        pytest.skip('no C compiler')
    return dict(os.environ, LD_PRELOAD=str(folder / 'library.so'))


def test_a_replaced_folder_that_is_busy_does_not_stop_the_new_one(tmp_path):
    """As on NFS, where what another program has open stays."""
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new' / 'kept.png').write_bytes(b'old')
    code = ('import sys; sys.path.insert(0, %r); import os, tf_process\n'
            'with tf_process.replacing("new") as part:\n    os.mkdir(part)\n    open(part + "/b", "w").close()' % ROOT)
    for environment, remark in ((preloaded(tmp_path, BUSY), True), (os.environ, False)):  # the next run removes it
        process = subprocess.run([sys.executable, '-c', code], cwd=str(tmp_path), env=environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, universal_newlines=True)
        assert process.returncode == 0 and ('new.part.old: was replaced, but' in process.stdout) == remark, process.stderr
        assert os.listdir(str(tmp_path / 'new')) == ['b'] and (tmp_path / 'new.part.old').exists() == remark


def test_results_do_not_replace_other_pictures_nor_become_faces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in 'train', 'test':
        (tmp_path / 'faces' / part).mkdir(parents=True)
        shutil.copy(face_paths()[0], str(tmp_path / 'faces' / part))
    (tmp_path / 'test').symlink_to(tmp_path / 'faces' / 'test')
    for command in ('--data faces --results faces', '--data faces --results faces/train/out', '--data faces/test --results '
                    'faces', '--data faces/train --results faces', '--data faces/test --results .', '--results faces',
                    '--data faces --cache faces/cache', '--data faces --checkpoints faces'):
        with pytest.raises(datamanager.DataError, match='name another --'):
            front_door.keep_apart(front_door.parse(command.split()))
    (tmp_path / 'faces' / 'test_grid.png').write_bytes(b'')  # of a test before
    for command in '--data faces', '--data faces --results .', '--data faces/train --results faces':
        if command == '--data faces --results .':
            (tmp_path / 'test').unlink()
        front_door.keep_apart(front_door.parse(command.split()))


def test_two_runs_at_once_on_the_same_folders(tmp_path):
    first = subprocess.Popen([sys.executable, os.path.join(ROOT, 'run.py'), '--size', '32', '--epoch', '99'],
                             cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first.stdout.readline()  # 'faces: ..'
    others = [run(tmp_path, '--size', 32, *names) for names in ([], ['--checkpoints', 'mine'], ['--results', 'mine'])]
    first.kill()
    first.communicate()
    for process, folder in zip(others, ('checkpoints', 'results', 'checkpoints')):
        assert process.returncode == 2 and process.stderr.count('\n') == 1, process.stderr
        assert '%s: another run' % folder in process.stderr


SYNCED = '''
import os, sys
sys.path.insert(0, %r)
fsync, replace, log = os.fsync, os.replace, open('calls', 'w')

def recorded_fsync(opened):
    fsync(opened)
    state = os.fstat(opened)
    print('sync', state.st_ino, state.st_size, file=log, flush=True)

def recorded_replace(part, path):
    whole, folder = os.stat(part), os.stat(os.path.dirname(path))
    print('replace', whole.st_ino, whole.st_size, folder.st_ino, file=log, flush=True)
    replace(part, path)

os.fsync, os.replace = recorded_fsync, recorded_replace
import run
sys.exit(run.front_door(sys.argv[1:]))
''' % ROOT


def test_what_a_run_leaves_is_on_the_disk_before_it_gets_its_name(tmp_path, colour_faces):
    process = subprocess.run([sys.executable, '-c', SYNCED, '--data', str(colour_faces), '--size', '32', '--epoch', '1',
                              '--batch', '36'], cwd=str(tmp_path), stderr=subprocess.PIPE, universal_newlines=True)
    assert process.returncode == 0, process.stderr
    calls = [line.split() for line in (tmp_path / 'calls').read_text().splitlines()]
    synced = {tuple(call[1:]) for call in calls if call[0] == 'sync'}  # (inode, size)
    replaced = [number for number, call in enumerate(calls) if call[0] == 'replace']
    cache = str((tmp_path / 'cache').stat().st_ino)
    for number in replaced:
        _, inode, size, folder = calls[number]
        assert ['sync', inode, size] in calls[:number]  # a file first, with all its bytes, then its folder
        assert folder == cache or folder in [call[1] for call in calls[number + 1:] if call[0] == 'sync']
    assert len(replaced) == 8  # cache, config.json, loss.csv, loss.png, the epoch's grid, test, test_grid.png, test.csv
    for pattern in ('cache/*.npy', 'cache/*.json', 'checkpoints/model-1.*', 'checkpoints/checkpoint',
                    'checkpoints/config.json', 'results/*.*', 'results/training/*', 'results/test/*'):
        paths = list(tmp_path.glob(pattern))
        assert paths, pattern
        for path in paths:
            assert (str(path.stat().st_ino), str(path.stat().st_size)) in synced, path
    folders = [call[1] for call in calls if call[0] == 'sync']
    model = max(folders.index(str(path.stat().st_ino)) for path in (tmp_path / 'checkpoints').glob('model-1.*'))
    assert str((tmp_path / 'checkpoints').stat().st_ino) in folders[model + 1:]


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_saved(tmp_path):
    process = run(tmp_path, '--size', 32, '--batch', 64, '--epoch', 30, '--lr', 1, '--adv_weight', 1e4)
    assert process.returncode == 2 and 'no longer finite' in process.stderr, process.stderr
    assert '--restart' in process.stderr and 'Traceback' not in process.stderr
    dataset, folder = datamanager.Dataset(size=(32, 32), cache=str(tmp_path)), tmp_path / 'model'
    network = neuralnet.ContextEncoder(dataset.shape)
    with tf_process.open_session() as session:
        go_on = lambda epochs, rate: tf_process.training(
            session, network, dataset, str(folder), str(tmp_path / 'good'), epochs, 64, rate)
        folder.mkdir()
        go_on(1, 1e-3)
        saved = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(tf_process.RunError, match='no longer finite'):
            go_on(2, 1e30)
    assert saved and saved == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('text', ['epoch;iteration\n1;46\n', 'epoch,iteration\n1,46\n',
                                  'x' + ',y' * 11 + '\n' * 2 + 'z' + ',1' * 11])
def test_a_changed_loss_log_gets_a_sentence(trained, tmp_path, text):
    shutil.copytree(str(trained[0]), str(tmp_path / 'run'))
    (tmp_path / 'run' / 'results' / 'loss.csv').write_text(text)
    process = run(tmp_path / 'run', '--size', 32, '--epoch', 3, '--batch', 16)
    assert process.returncode == 2 and process.stderr.count('\n') == 1, process.stderr
    assert 'loss.csv' in process.stderr and 'move it away' in process.stderr
    assert (tmp_path / 'run' / 'results' / 'loss.csv').read_text() == text


def test_a_training_does_not_go_on_with_other_faces_or_masks(trained, tmp_path):
    folder = tmp_path / 'checkpoints'
    shutil.copytree(str(trained[0] / 'checkpoints'), str(folder))
    kept = json.loads((folder / 'config.json').read_text())
    assert kept['faces'] == datamanager.Dataset(size=(32, 32), cache=str(tmp_path)).fingerprint and kept['masks'] is None
    check = lambda **changed: models.check_config(str(folder), dict(kept, **changed), fresh=True)
    check()
    for what in 'faces', 'masks':
        with pytest.raises(tf_process.RunError, match='trained on other %s: .*--restart.* --init .*checkpoints' % what):
            check(**{what: 'other'})
        del kept[what]  # as in an older config.json
    (folder / 'config.json').write_text(json.dumps(kept))
    check(faces='unknown', masks='unknown')


def test_a_nasty_folder_is_trained_on(tmp_path, colour_faces):
    folder = tmp_path / 'my faces'
    shutil.copytree(str(colour_faces), str(folder))
    face = Image.open(str(folder / '00.jpg'))
    for name in (b'zz two\nlines.png', b'zz caf\xe9.png', b'zz with space.png'):
        with open(os.path.join(os.fsencode(str(folder)), name), 'wb') as file:
            face.save(file, 'PNG')
    face.convert('CMYK').save(str(folder / 'cmyk.jpg'))
    face.save(str(folder / 'animated.png'), save_all=True, append_images=[face.rotate(9)])
    face.save(str(folder / 'really a gif.png'), 'GIF')
    face.save(str(folder / 'really a jpeg.txt'), 'JPEG')
    Image.new('1', (20000, 20000)).save(str(folder / 'bomb.png'))
    face.resize((1, 1)).save(str(folder / 'tiny.png'))
    (folder / ('zz' + 60 * '\u6df1')).mkdir()
    face.save(str(folder / ('zz' + 60 * '\u6df1') / (60 * '\u3044' + '.png')))
    process = run(tmp_path, '--data', folder, '--size', 32, '--epoch', 1, python=sys.executable)  # which escapes odd names
    assert process.returncode == 0, process.stderr
    assert '43 to train on, 4 to test on' in process.stdout
    assert [line for line in process.stdout.split('\n') if line.startswith('skipped')] and 'Warning' not in process.stderr
    for name in ('really a gif.png', 'bomb.png', 'tiny.png'):
        assert 'skipped %s/%s' % (folder, name) in process.stdout
    assert b'zz caf\xe9.png' in os.listdir(os.fsencode(str(tmp_path / 'results' / 'test')))


def test_files_that_vanish_after_they_were_listed_are_skipped(tmp_path, colour_faces):
    path, files, skipped, _ = datamanager.cached_images(str(colour_faces), ['00.jpg', 'gone.jpg'], 32, 32, str(tmp_path))
    assert files == ['00.jpg'] and len(skipped) == 1 and 'gone.jpg' in skipped[0]
    assert np.load(path).shape == (1, 32, 32, 3)


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_used_without(tmp_path, colour_faces, monkeypatch, capsys, number):
    fcntl = pytest.importorskip('fcntl')

    def flock(opened, how):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, 'flock', flock)
    datamanager.say_once.cache_clear()
    data = datamanager.Dataset(str(colour_faces), (32, 32), cache=str(tmp_path / 'cache'))
    for name in 'checkpoints', 'results':
        (tmp_path / name).mkdir()
    with models.locked(str(tmp_path / 'checkpoints'), str(tmp_path / 'results')):
        assert len(data.names) == 40
    assert capsys.readouterr().out == (
        'the file system has no locks: see to it that no other run uses these folders\n')
    assert not [path for path in tmp_path.rglob('lock.*')]


def test_what_systems_leave_is_nobodys(tmp_path, colour_faces, monkeypatch, capsys):
    folder = tmp_path / '.hidden'  # but what the user names is used
    shutil.copytree(str(colour_faces), str(folder / 'faces'))
    for name in ('._00.jpg', '.Trash-1000/files/a.jpg', '.ipynb_checkpoints/a.jpg', '@eaDir/00.jpg/SYNOPHOTO_THUMB_M.jpg',
                 '__MACOSX/faces/._00.jpg', 'lost+found/a.jpg', '$RECYCLE.BIN/a.jpg', 'faces/Thumbs.db', 'desktop.ini',
                 'closed/a.jpg'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(colour_faces / '00.jpg'), str(folder / name))
    access = os.access  # root may read everything
    monkeypatch.setattr(os, 'access', lambda path, mode: access(path, mode) and not path.endswith(('closed', 'lost+found')))
    data = datamanager.Dataset(str(folder), (32, 32), cache=str(tmp_path / 'cache'))
    assert data.names == ['faces_%02d' % number for number in range(40)] and not data.skipped
    assert capsys.readouterr().out == 'skipped %s/closed: the folder cannot be read: change its permissions\n' % folder
    assert len(photos.Photos([str(folder), str(folder / '._00.jpg')], 'center', (32, 32, 3), str(tmp_path))) == 41
    assert len(mask_files(str(folder))) == 40
    with pytest.raises(datamanager.DataError, match='closed: the folder cannot be read'):
        datamanager.find_files(str(folder / 'closed'))


@pytest.mark.skipif(os.getuid() == 0, reason='root may read everything')
def test_an_unreadable_folder_gets_a_sentence(tmp_path):
    (tmp_path / 'secret').mkdir(mode=0)
    process = run(tmp_path, '--data', 'secret')
    assert process.returncode == 2 and 'cannot be read' in process.stderr


OPTIONS = strategies.sampled_from(['--size', '--epoch', '--batch', '--lr', '--adv_weight', '--seed', '--mask', '--data'])
VALUES = strategies.one_of(strategies.text(max_size=8), strategies.integers().map(str), strategies.floats().map(str),
                           strategies.sampled_from(['0x10', '32x', 'x', '128x128', '-0', '1e400', 'nan', '٣٢', '²']))


@settings(max_examples=300, deadline=None)
@given(strategies.lists(strategies.tuples(OPTIONS, VALUES), max_size=4))
def test_any_command_line_is_understood_or_refused(pairs):
    try:
        options = front_door.parse(['%s=%s' % pair for pair in pairs])
    except SystemExit as end:
        assert end.code == 2
    else:
        assert options.epoch is None or 1 <= options.epoch
        assert 1 <= options.batch <= 4096 and (options.lr is None or 0 < options.lr <= 1)
        assert options.size is None or all(32 <= side <= 1024 for side in options.size)


@settings(max_examples=100, deadline=None)
@given(strategies.integers(32, 400), strategies.integers(32, 400), strategies.sampled_from(['center', 'lower', 'random']),
       strategies.integers(0, 2 ** 31))
def test_any_mask_hides_something_but_not_all(height, width, kind, seed):
    mask = make_mask(kind, height, width, np.random.RandomState(seed))
    assert mask.shape == (height, width, 1) and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    top, bottom, left, right = datamanager.bounding_box(mask)
    assert mask[top:bottom, left:right].sum() == mask.sum()
