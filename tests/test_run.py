"""The command line, run for real."""
import csv
import json
import os
import pty
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import soak
from conftest import ROOT, face_paths, read_terminal, run


def table(path):
    with open(str(path), newline='') as file:
        return list(csv.DictReader(file))


def test_trains_tests_and_leaves_what_the_readme_lists(trained):
    folder, process = trained
    assert process.returncode == 0, process.stderr
    results = folder / 'results'
    log = table(results / 'loss.csv')
    assert list(log[0]) == ('epoch,iteration,seconds,images_per_second,loss_rec,loss_adv,loss_dis,acc_real,acc_fake,'
                            'test_error,test_psnr,test_ssim').split(',')
    assert [(row['epoch'], row['iteration']) for row in log] == [('1', '23'), ('2', '46')]
    tests = table(results / 'test.csv')
    assert list(tests[0]) == ['image', 'error', 'psnr', 'ssim'] and len(tests) == 40
    mean = np.mean([float(row['error']) for row in tests])
    assert abs(mean - float(log[-1]['test_error'])) < 1e-2 * mean  # the checkpoint restored gives the same pictures
    assert 'error %.2f' % mean in process.stdout
    for row in tests:
        assert Image.open(str(results / 'test' / (row['image'] + '.png'))).size == (96, 32)
    assert sorted(os.listdir(str(results / 'training'))) == ['00000001.png', '00000002.png']
    assert Image.open(str(results / 'training' / '00000002.png')).size == (5 * (4 * 32 + 2), 8 * 34)
    assert os.listdir(str(results / 'tensorboard'))
    for name in ('loss.png', 'test_grid.png'):
        Image.open(str(results / name)).load()
    assert not [name for _, _, names in os.walk(str(folder)) for name in names if name.endswith('.part')]


def test_console_is_clean_and_says_what_it_will_do(trained):
    _, process = trained
    for word in ('360 to train on', '40 to test on', '32x32x1', 'center', 'generator', 'discriminator', 'CPU'):
        assert word in process.stdout
    for noise in ('Warning', 'deprecated', 'WARNING', 'np_resource', 'Instructions for updating', 'cpu_feature'):
        assert noise not in process.stdout + process.stderr


def test_a_log_has_a_line_an_epoch_and_no_bars(trained):
    _, process = trained
    assert not process.stderr and '\r' not in process.stdout
    assert len([line for line in process.stdout.split('\n') if 'images/s' in line]) == 2


def test_error_falls_over_real_training(tmp_path):
    process = run(tmp_path, '--size', 32, '--epoch', 5, '--batch', 8)
    assert process.returncode == 0, process.stderr
    log = table(tmp_path / 'results' / 'loss.csv')
    assert float(log[-1]['loss_rec']) < .95 * float(log[0]['loss_rec'])
    assert float(log[-1]['test_error']) < float(log[0]['test_error'])


def test_colours_stay_red_green_blue_to_the_png(tmp_path, colour_faces):
    process = run(tmp_path, '--data', colour_faces, '--size', '64x48', '--epoch', 1, '--mask', 'lower')
    assert process.returncode == 0, process.stderr
    picture = np.asarray(Image.open(str(tmp_path / 'results' / 'test' / '36.png')), np.float32)
    source = np.asarray(Image.open(str(colour_faces / '36.jpg')), np.float32)
    assert picture.shape == (64, 3 * 48, 3)
    np.testing.assert_allclose(picture[:, :48], source, atol=1)
    np.testing.assert_allclose(picture[:20, 96:], source[:20], atol=1)


def test_a_finished_run_goes_to_testing_and_test_only_repeats_it(trained, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(str(trained[0]), str(folder))
    log, tests = [(folder / 'results' / name).read_bytes() for name in ('loss.csv', 'test.csv')]
    (folder / 'results' / 'test').rename(folder / 'elsewhere')
    (folder / 'results' / 'test').symlink_to(folder / 'elsewhere')
    for name in ('test.old', 'test.csv.old'):  # the user's own
        (folder / 'results' / name).mkdir()
    for arguments in (['--size', 32, '--epoch', 2, '--batch', 16], ['--test_only']):
        process = run(folder, *arguments)
        assert process.returncode == 0, process.stderr
        assert (folder / 'results' / 'loss.csv').read_bytes() == log
        assert (folder / 'results' / 'test.csv').read_bytes() == tests
    assert sorted(os.listdir(str(folder / 'elsewhere'))) == sorted(os.listdir(str(folder / 'results' / 'test')))
    assert not (folder / 'results' / 'test').is_symlink()
    assert (folder / 'results' / 'test.old').exists() and (folder / 'results' / 'test.csv.old').exists()


def test_killed_and_started_again_it_ends_as_an_unbroken_run(tmp_path_factory):
    tmp_path, unbroken = [tmp_path_factory.mktemp(name) for name in ('killed', 'unbroken')]
    # Long enough for four signals: where a core is busy elsewhere, each comes many steps late.
    command = [sys.executable, os.path.join(ROOT, 'run.py'), '--size', '32', '--epoch', '5', '--batch', '8']
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)):
        terminal, end = pty.openpty()  # which gets a bar
        anew = ['--restart'] if number == signal.SIGTERM else []
        nohup = ['nohup'] if number == signal.SIGKILL else []
        process = subprocess.Popen(nohup + command + anew, cwd=str(tmp_path), stdout=subprocess.DEVNULL, stderr=end,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # where pytest has nohup
        os.close(end)
        read_terminal(terminal, b'images/s')  # in the middle of an epoch
        if nohup:
            process.send_signal(signal.SIGHUP)
            read_terminal(terminal, b'images/s')  # it goes on
        process.send_signal(number)
        assert process.wait() == status
        said = read_terminal(terminal)
        assert (b'same command' in said) == (status > 0) and (b'without --restart' in said) == bool(anew)
        os.close(terminal)
    process = run(tmp_path, *command[2:])
    assert process.returncode == 0 and 'going on' in process.stdout, process.stderr
    assert run(unbroken, *command[2:]).returncode == 0
    rows, errors, weights, left = soak.difference(str(unbroken), str(tmp_path))
    assert rows and not left and [row['epoch'] for row in table(tmp_path / 'results' / 'loss.csv')] == list('12345')
    assert errors < 1e-3 and weights < 1e-3  # the same to the last bit where the machine adds in the same order


def test_the_original_is_trained_resumed_tested_and_restored_with_like_any_model(tmp_path):
    process = run(tmp_path, '--original', '--size', 32, '--epoch', 1, '--batch', 120)
    assert process.returncode == 0 and 'mask: random' in process.stdout, process.stderr
    config = json.loads((tmp_path / 'checkpoints' / 'config.json').read_text())
    assert (config['original'], config['batch'], config['lr'], config['mask'], config['vary']) == (True, 120, 1e-4, 'random', 0)
    for arguments, status, words in (
            (['--original', '--size', 32, '--epoch', 2, '--batch', 120], 0, 'going on from epoch 2'),
            (['--size', 32, '--epoch', 2, '--batch', 120], 2, 'was trained with lr 0.0001, not 0.001'),
            (['--original', '--test_only'], 2, '--original begins a training'),
            (['--restore', face_paths()[0]], 0, 'restored 1 of 1')):
        process = run(tmp_path, *arguments)
        assert process.returncode == status and words in process.stdout + process.stderr, process.stderr
    log = table(tmp_path / 'results' / 'loss.csv')
    assert [row['epoch'] for row in log] == ['1', '2'] and float(log[1]['test_error']) < float(log[0]['test_error'])
    process = run(tmp_path, '--test_only')
    assert process.returncode == 0 and 'test of 40 faces: error %.2f' % float(log[1]['test_error']) in process.stdout


def test_a_pipe_that_is_closed_stops_and_saves(tmp_path):
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, 'run.py'), '--size', '32', '--epoch', '9', '--batch', '32'],
                               cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    while 'steps an epoch' not in process.stdout.readline():
        pass
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 141 and said == '\nstopped and saved: give the same command again to go on\n'
    assert list((tmp_path / 'checkpoints').glob('model-12.*')) and len(table(tmp_path / 'results' / 'loss.csv')) == 1
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, 'run.py'), '--help'], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()  # before it has anything to say
    assert (process.stderr.read(), process.wait()) == (b'', 141)


def test_without_standard_output_and_error_it_trains(tmp_path):
    command = '%s %s --size 32 --epoch 1 --batch 32 ' % (sys.executable, os.path.join(ROOT, 'run.py'))
    assert subprocess.call(command + '<&- >&- 2>&-', shell=True, cwd=str(tmp_path)) == 0
    assert len(table(tmp_path / 'results' / 'test.csv')) == 40
    assert subprocess.call(command + '--batch 16 >&- 2>&-', shell=True, cwd=str(tmp_path)) == 2  # refused
    process = subprocess.run(command + '>/dev/full', shell=True, cwd=str(tmp_path), stderr=subprocess.PIPE)
    assert process.returncode == 0 and process.stderr.count(b'\n') == 1 and b'No space left' in process.stderr


NOTEBOOK = '''
import io, signal, sys
sys.path.insert(0, %r)
cell = sys.stdout = io.StringIO()  # which has no `reconfigure`
before = signal.getsignal(signal.SIGTERM)
import run
statuses = [run.front_door(['--size', '32', '--batch', '32'] + more) for more in (['--epoch', '1'], ['--test_only'])]
assert sys.stdout is cell and signal.getsignal(signal.SIGTERM) == before and statuses == [0, 0], statuses
assert cell.getvalue().count('test of 40 faces') == 2
''' % ROOT


def test_a_notebook_runs_it_as_often_as_it_likes(tmp_path):
    backend = 'module://matplotlib_inline.backend_inline'  # which is not installed here
    process = subprocess.run([sys.executable, '-c', NOTEBOOK], cwd=str(tmp_path), env=dict(os.environ, MPLBACKEND=backend),
                             stderr=subprocess.PIPE, universal_newlines=True)
    assert process.returncode == 0, process.stderr
    assert Image.open(str(tmp_path / 'results' / 'loss.png')).size == (1000, 400)


def test_settings_that_contradict_the_model_are_refused(trained):
    process = run(trained[0], '--size', 32, '--epoch', 2, '--batch', 8)
    assert process.returncode == 2 and process.stderr.count('\n') == 1
    for word in ('batch 16', 'not 8', '--restart', '--checkpoints'):
        assert word in process.stderr


def test_another_training_does_not_replace_the_loss_log(trained):
    log = (trained[0] / 'results' / 'loss.csv').read_bytes()
    process = run(trained[0], '--size', 32, '--epoch', 1, '--batch', 36, '--checkpoints', 'second')
    assert process.returncode == 2 and 'loss.csv: of another training: name another --results' in process.stderr
    assert (trained[0] / 'results' / 'loss.csv').read_bytes() == log


def test_a_damaged_checkpoint_falls_back_to_the_one_before(trained, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(str(trained[0]), str(folder))
    newest = folder / 'checkpoints' / 'model-46.data-00000-of-00001'
    newest.write_bytes(newest.read_bytes()[:1000])
    (folder / 'checkpoints' / 'checkpoint').write_bytes(b'')
    process = run(folder, '--size', 32, '--epoch', 2, '--batch', 16)
    assert process.returncode == 0 and 'model-46 is damaged' in process.stdout, process.stderr
    assert [row['epoch'] for row in table(folder / 'results' / 'loss.csv')] == ['1', '2']
    newest.unlink()  # a missing part
    process = run(folder, '--test_only')
    assert process.returncode == 0 and 'model-46 is damaged' in process.stdout, process.stderr
    for path in (folder / 'checkpoints').glob('model-*.data*'):
        path.write_bytes(b'')
    process = run(folder, '--size', 32, '--epoch', 2, '--batch', 16)
    assert process.returncode == 2 and '--restart' in process.stderr


@pytest.mark.parametrize('arguments,words', [
    (['--data', 'nowhere'], ['nowhere', 'no such folder']),
    (['--data', 'other/config.json'], ['config.json: a file']),
    (['--data', 'faces.zip'], ['faces.zip: an archive, to be unpacked first']),
    (['--data', 'https://example.org/faces'], ['an address, to be downloaded first']),
    (['--results', b'caf\xe9'], ['caf', 'UTF-8']),
    (['--checkpoints', b'caf\xe9'], ['caf', 'UTF-8']),
    (['--data', 'empty'], ['empty', 'no JPEG']),
    (['--data', ''], ['--data', 'missing']),
    (['--data', '.'], ['results', 'lies in --data']),
    (['--export', ''], ['--export', 'missing']),
    (['--init', 'other', '--test_only'], ['--init', '--checkpoints']),
    (['--checkpoints', '[1]'], ['[1]', 'patterns']),
    (['--export', '[1]'], ['[1]', 'patterns']),
    (['--checkpoints', 'other', '--restart'], ['config.json', 'not of this program']),
    (['--data', 'parts', '--size', '32'], ['parts/test', 'no image']),
    (['--data', 'parts', '--size', '112x92', '--mask', 'parts/train/a.pgm'], ['parts/train/a.pgm', 'lies in --data']),
    (['--restore', ''], ['--restore', 'missing']),
    (['--size', '31'], ['--size', '32', 'see --help']),
    (['--lr', 'nan'], ['--lr', 'nan', 'see --help']),
    (['--sizes', '32'], ['--sizes', 'see --help']),
    (['--batch', '0'], ['--batch', '0']),
    (['--epoch', '-1'], ['--epoch', '-1']),
    (['--mask', 'elsewhere.png'], ['elsewhere.png']),
    (['--results', '/proc/none'], ['/proc/none', 'written']),
])
def test_bad_input_gets_a_sentence_and_status_2(tmp_path, arguments, words):
    for folder in 'empty', 'other', 'parts/test', 'parts/train':
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(face_paths()[0], str(tmp_path / 'parts' / 'train' / 'a.pgm'))
    (tmp_path / 'other' / 'config.json').write_text('{"model_type": "bert"}')
    (tmp_path / 'faces.zip').write_bytes(b'PK')
    process = run(tmp_path, *arguments)
    assert process.returncode == 2 and 'bert' in (tmp_path / 'other' / 'config.json').read_text()
    assert process.stderr.count('\n') == 1, process.stderr
    for word in words:
        assert word in process.stderr
    assert not list((tmp_path / 'checkpoints').glob('*')) if (tmp_path / 'checkpoints').exists() else True


def test_help_explains_each_option_with_its_default(tmp_path):
    text = run(tmp_path, '--help').stdout
    for option in '--data --size --mask --epoch --batch --lr --adv_weight --seed --restart --test_only --checkpoints ' \
                  '--results --cache'.split():
        assert option in text
    assert text.count('default:') >= 10
