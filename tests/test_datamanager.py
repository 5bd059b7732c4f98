import os
import shutil

import numpy as np
import pytest
from PIL import Image

import datamanager
from conftest import face_paths
from datamanager import Dataset


def test_packaged_faces_keep_a_person_in_one_part(tmp_path):
    data = Dataset(cache=str(tmp_path))
    assert data.shape == (128, 128, 1) and len(data.train) + len(data.test) == 400
    people = [{data.names[row].split('_')[0] for row in part} for part in (data.train, data.test)]
    assert len(people[0]) == 36 and len(people[1]) == 4 and not people[0] & people[1]


def test_folder_split_by_name_or_last_tenth(tmp_path):
    for name in ('train/a.pgm', 'train/b.pgm', 'test/c.pgm'):
        (tmp_path / 'named' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(face_paths()[0], str(tmp_path / 'named' / name))
    data = Dataset(str(tmp_path / 'named'), (32, 32), cache=str(tmp_path / 'cache'))
    assert [data.names[row] for row in data.train] == ['train_a', 'train_b']
    assert [data.names[row] for row in data.test] == ['test_c']
    train, test = datamanager.split(['%03d.png' % i for i in range(25)])
    assert list(test) == [23, 24] and len(train) == 23
    assert len(datamanager.split(['a', 'b'])[1]) == 1


def test_epoch_shows_each_image_once_and_replays(tmp_path, colour_faces):
    data = Dataset(str(colour_faces), (48, 32), seed=3, cache=str(tmp_path))
    batches = [images for images, _ in data.epoch(1, 7)]
    assert [len(images) for images in batches] == [7] * 5 + [1]

    seen = sorted(image.tobytes() for images in batches for image in images)
    assert seen == sorted(image.tobytes() for image in data.images(data.train))
    again = [images for images, _ in data.epoch(1, 7, start=4)]
    assert all((a == b).all() for a, b in zip(batches[4:], again)) and len(again) == 2
    other = np.concatenate([images for images, _ in data.epoch(2, 7)])
    assert (np.concatenate(batches) != other).any()


def test_faces_vary_in_training_a_little_and_each_time_otherwise(tmp_path, colour_faces):
    data = Dataset(str(colour_faces), (64, 48), cache=str(tmp_path), vary=.5)
    still = Dataset(str(colour_faces), (64, 48), cache=str(tmp_path))
    epochs = [np.concatenate([images for images, _ in faces.epoch(epoch, 7)]).astype(float)
              for faces, epoch in ((still, 1), (data, 1), (data, 1), (data, 2))]
    assert (epochs[1] == epochs[2]).all()
    for varied, plain in zip(epochs[1], epochs[0]):
        assert 2 < np.abs(varied - plain).mean() and np.corrcoef(varied.ravel(), plain.ravel())[0, 1] > .8
    assert not {image.tobytes() for image in epochs[1]} & {image.tobytes() for image in epochs[3]}
    image = still.images([0])[0]
    assert (datamanager.vary(image, 0, np.random.RandomState(0)) == image).all()


def test_cache_is_used_again_and_renewed_when_a_file_changes(tmp_path, colour_faces):
    folder, cache = tmp_path / 'faces', tmp_path / 'cache'
    shutil.copytree(str(colour_faces), str(folder))
    first = Dataset(str(folder), (32, 32), cache=str(cache))
    stamp = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    Dataset(str(folder), (32, 32), cache=str(cache))
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == stamp
    Image.new('RGB', (48, 64), 'blue').save(str(folder / '00.jpg'))
    assert Dataset(str(folder), (32, 32), cache=str(cache)).images([0])[0, 0, 0, 2] > 200
    assert first.images([0])[0, 0, 0, 2] < 200
    assert not list(cache.glob('*.part'))


def test_a_damaged_cache_gets_a_sentence(tmp_path, colour_faces):
    Dataset(str(colour_faces), (32, 32), cache=str(tmp_path))
    path, = tmp_path.glob('*.npy')
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(datamanager.DataError, match='damaged: delete it'):
        Dataset(str(colour_faces), (32, 32), cache=str(tmp_path))


def test_colours_orientation_and_crop(tmp_path):
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :50], picture[:, 50:150], picture[:50, 50:150] = (0, 255, 0), (255, 0, 0), (0, 0, 255)
    Image.fromarray(picture).save(str(tmp_path / 'a.png'))
    image = datamanager.load_image(str(tmp_path / 'a.png'), 32, 32, 3)  # the middle square: blue over red
    assert (image[:12, 2:-2] == (0, 0, 255)).all() and (image[20:, 2:-2] == (255, 0, 0)).all()
    exif = Image.Exif()
    exif[0x112] = 3  # upside down
    Image.fromarray(picture[::-1, ::-1]).save(str(tmp_path / 'b.jpg'), exif=exif, quality=100, subsampling=0)
    turned = datamanager.load_image(str(tmp_path / 'b.jpg'), 32, 32, 3)
    assert np.abs(turned.astype(int) - image)[2:12, 2:-2].max() < 10


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((32, 32), 32896, np.uint16)).save(str(tmp_path / 'deep.png'))
    assert (datamanager.load_image(str(tmp_path / 'deep.png'), 32, 32, 1) == 128).all()


def test_bad_files_are_skipped_and_named(tmp_path, colour_faces):
    folder = tmp_path / 'faces'
    shutil.copytree(str(colour_faces), str(folder))
    whole = (folder / '00.jpg').read_bytes()
    (folder / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'notes.txt').write_text('no image')
    (folder / 'two\nlines.jpg').write_bytes(b'GIF89a')
    os.symlink('nowhere', str(folder / 'broken.jpg'))
    os.symlink('.', str(folder / 'loop'))
    data = Dataset(str(folder), (32, 32), cache=str(tmp_path / 'cache'))
    assert len(data.names) == 40
    assert [sum(name in reason for reason in data.skipped) for name in ('cut.jpg', 'empty.png', 'two\\nlines')] == [1] * 3
    assert len(data.skipped) == 3


def test_grey_folder_has_one_channel(tmp_path):
    for i, path in enumerate(face_paths()[:3]):
        shutil.copy(path, str(tmp_path / ('%d.pgm' % i)))
    assert Dataset(str(tmp_path), (40, 32), cache=str(tmp_path / 'cache')).shape == (40, 32, 1)
