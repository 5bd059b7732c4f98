import os
import shutil
import struct
import zlib

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
    data = Dataset(str(tmp_path / 'named' / 'test'), (32, 32), cache=str(tmp_path / 'cache'), training=False)
    assert not data.division and len(data.test) == 1
    train, test = datamanager.split(['%03d.png' % i for i in range(25)])
    assert list(test) == [23, 24] and len(train) == 23
    assert len(datamanager.split(['a', 'b'])[1]) == 1


@pytest.mark.parametrize('folders,parts', [
    (('train', 'val'), 'parts: train to train on, val to test on'),
    (('Train', 'TEST'), 'parts: Train to train on, TEST to test on'),
    (('training', 'validation', 'notes'), 'parts: training to train on, validation to test on; left out: notes'),
    (('train', 'valid', 'val', 'test'), 'parts: train to train on, test to test on; left out: val, valid'),
    (('people', 'val'), ''),
])
def test_splits_as_people_call_them(tmp_path, folders, parts):
    for number, name in enumerate(folders):
        (tmp_path / 'faces' / name).mkdir(parents=True)
        for face in face_paths()[2 * number:2 * number + 2]:
            shutil.copy(face, str(tmp_path / 'faces' / name))
    data = Dataset(str(tmp_path / 'faces'), (32, 32), cache=str(tmp_path / 'cache'))
    assert data.division == parts
    names = [{data.names[row].split('_')[0] for row in rows} for rows in (data.train, data.test)]
    if parts:
        words = parts.split()
        assert names == [{words[1]}, {words[5]}] and len(data.train) == len(data.test) == 2
    else:
        assert len(data.train) == 3 and names == [{'people', 'val'}, {'val'}]


def test_parts_that_cannot_be_used_get_a_sentence(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'test').symlink_to('train')
    shutil.copy(face_paths()[0], str(tmp_path / 'train'))
    make = lambda: Dataset(str(tmp_path), (32, 32), cache=str(tmp_path / 'cache'))
    with pytest.raises(datamanager.DataError, match='test: the same folder as .*train: give it images of its own'):
        make()
    (tmp_path / 'test').unlink()
    (tmp_path / 'train').rename(tmp_path / 'val')
    with pytest.raises(datamanager.DataError, match='no image to train on: add a folder train beside val'):
        make()
    (tmp_path / 'train').mkdir()
    with pytest.raises(datamanager.DataError, match='train: no image that can be read'):
        make()


def test_a_fingerprint_tells_other_faces_from_moved_ones(tmp_path, colour_faces):
    folder = tmp_path / 'faces'
    shutil.copytree(str(colour_faces), str(folder))
    mark = lambda folder: Dataset(str(folder), (32, 32), cache=str(tmp_path / 'cache')).fingerprint
    first = mark(folder)
    os.utime(str(folder / '00.jpg'), (0, 0))
    (folder / '00.jpg').rename(folder / '01 renamed.jpg')
    folder.rename(tmp_path / 'moved')
    assert mark(tmp_path / 'moved') == first == mark(colour_faces)
    shutil.copy(str(colour_faces / '02.jpg'), str(tmp_path / 'moved' / '01.jpg'))
    assert mark(tmp_path / 'moved') != first


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


def segment(marker, content):
    return b'\xff' + bytes([marker]) + struct.pack('>H', len(content) + 2) + content


def chunk(kind, content, spoiled=0):
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content) ^ spoiled)


def test_metadata_never_costs_or_changes_a_picture(tmp_path):
    """Damaged, doubled, endless or hostile: viewers pass over it, and both runtimes see the same pixels."""
    face = Image.open(face_paths()[0]).convert('RGB')
    plain = {}
    for kind in 'jpeg', 'png':
        face.save(str(tmp_path / ('plain.' + kind)), kind)
        plain[kind] = (tmp_path / ('plain.' + kind)).read_bytes()
    exif = Image.Exif()
    exif[0x112] = 6
    exif = exif.tobytes()
    # Turned, and an exposure bias of -1/0, which cannot be written again.
    bias = b'Exif\0\0II*\0' + struct.pack('<IH HHIHH HHII I HHHII ii', 8, 2, 0x112, 3, 1, 6, 0, 0x8769, 4, 1, 38, 0,
                                           1, 0x9204, 10, 1, 56, -1, 0)
    noise = np.random.RandomState(0).bytes(1500000)
    turned = [('jpeg', segment(0xe1, content)) for content in (
        exif, bias, exif[:6] + exif, exif[:6] + bias)] + [
        ('jpeg', segment(0xe0, b'JFIF\0') + segment(0xe1, exif)), ('png', chunk(b'eXIf', exif[6:])),
        ('png', chunk(b'eXIf', bias[6:]) + chunk(b'gAMA', b''))]
    upright = [('jpeg', segment(0xe1, b'Exif\0\0' + content)) for content in (
        b'', b'XX*\0', exif[6:14], exif[6:-12] + b'\0\x09')] + [
        ('jpeg', segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')),
        ('jpeg', segment(0xe2, b'MPF\0II*\0' + bytes(9))), ('jpeg', segment(0xee, b'Adobe\0')),
        ('jpeg', segment(0xed, b'Photoshop 3.0\x008BIM\3')), ('png', chunk(b'tEXt', b'a\0b', spoiled=1)),
        ('png', chunk(b'tEXt', b'transparency\0x')), ('png', chunk(b'zTXt', b'a\0\7')), ('png', chunk(b'pHYs', b'\0')),
        ('png', chunk(b'tEXt', b'a\0' + noise)), ('png', chunk(b'zTXt', b'a\0\0' + zlib.compress(noise))),
        ('png', chunk(b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(noise.hex().encode()))),
        ('png', chunk(b'iCCP', b'a\0\0' + zlib.compress(noise))), ('png', chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(10 ** 8))))]
    pixels = lambda path: datamanager.decode(str(path), lambda image: np.asarray(datamanager.plain(image)))
    for turns, cases in ((3, turned), (0, upright)):
        for kind, metadata in cases:
            for after in (False, True) if kind == 'png' else (False,):
                at = len(plain['png']) - 12 if after else {'jpeg': 2, 'png': 33}[kind]
                (tmp_path / 'photo').write_bytes(plain[kind][:at] + metadata + plain[kind][at:])
                np.testing.assert_array_equal(pixels(tmp_path / 'photo'), np.rot90(pixels(tmp_path / ('plain.' + kind)), turns),
                                              repr((kind, after, metadata[:40])))
    (tmp_path / 'photo').write_bytes(plain['png'][:33] + chunk(b'iCCP', b'a\0\0' + zlib.compress(noise)) + plain['png'][33:])
    assert datamanager.decode(str(tmp_path / 'photo'), lambda image: image.info['icc_profile']) == noise


NEW = {'HEIF': 'a.heic', 'WEBP': 'a.webp', 'AVIF': 'a.avif', 'TIFF': 'a.tif'}  # read on TensorFlow 2.21


def test_pictures_of_phones_the_web_and_scanners(tmp_path):
    face = Image.open(face_paths()[0]).convert('RGB').resize((80, 100))
    exif, lossy = Image.Exif(), {'quality': 90}
    exif[0x112] = 6
    pixels = lambda path: datamanager.decode(str(path), lambda image: np.asarray(datamanager.plain(image)).astype(int))
    upright = np.asarray(face).astype(int)
    for kind, name in dict(NEW, MPO='a.jpg').items():
        path = tmp_path / name
        if kind != 'MPO' and kind not in datamanager.FORMATS:
            if kind in ('WEBP', 'TIFF'):  # those that its Pillow can write
                face.save(str(path), kind)
                with pytest.raises(datamanager.DataError, match='HEIC, WebP, AVIF and TIFF need RUNTIME=tf2'):
                    pixels(path)
            continue
        options = {} if kind == 'TIFF' else lossy
        face.save(str(path), kind, save_all=True, append_images=[face.rotate(180)], **options)
        assert np.abs(pixels(path) - upright).mean() < 4, kind  # the first of several
        face.save(str(path), kind, exif=exif.tobytes(), **options)
        assert np.abs(pixels(path) - np.rot90(upright, 3)).mean() < 4, kind
        path.rename(tmp_path / ('%s inside.jpg' % kind))
    data = Dataset(str(tmp_path), (32, 32), cache=str(tmp_path / 'cache'), training=False)
    assert len(data.names) + len(data.skipped) == len(list(tmp_path.glob('*.*')))
    assert len(data.names) == (5 if 'HEIF' in datamanager.FORMATS else 1)


@pytest.mark.skipif('HEIF' not in datamanager.FORMATS, reason='TensorFlow 2.21 only')
def test_pictures_that_are_none_and_metadata_of_newer_kinds(tmp_path):
    face = Image.open(face_paths()[0]).convert('RGB').resize((80, 100))
    face.convert('F').save(str(tmp_path / 'float.tif'))
    face.save(str(tmp_path / 'raw.nef'), 'TIFF', tiffinfo={254: 1})
    for name, words in (('float.tif', '8 or 16 bits'), ('raw.nef', 'develop it first')):
        with pytest.raises(datamanager.DataError, match=words):
            datamanager.load_image(str(tmp_path / name), 32, 32, 3)
    exif = Image.Exif()
    exif[0x10f] = 'maker of cameras'
    for kind, name in NEW.items():
        face.save(str(tmp_path / name), kind, exif=exif.tobytes(), **({} if kind == 'TIFF' else {'quality': 90}))
        whole = (tmp_path / name).read_bytes()
        for at in (whole.index(b'maker'),) if kind == 'TIFF' else whole.index(b'MM\0*') + np.arange(8):
            (tmp_path / 'b').write_bytes(whole[:at] + b'\xff' + whole[at + 1:])
            assert np.abs(datamanager.load_image(str(tmp_path / 'b'), 100, 80, 3) - np.asarray(face, int)).mean() < 4


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
