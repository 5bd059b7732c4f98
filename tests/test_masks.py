"""Masks of every kind: what they hide, that a test always shows the same, and what is said about wrong ones."""
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

import datamanager
from conftest import face_paths, run
from datamanager import DataError, Dataset
from extras.masks import Masks, file_mask, lower_mask, make_mask, random_mask
from extras.photos import Photo, Photos
from test_run import table


def rectangle(path, top, bottom, left, right, size=(64, 48)):
    """Write a mask of one white rectangle."""
    drawn = np.zeros(size, np.uint8)
    drawn[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).save(str(path))


def drawn(kind, size=(64, 48), number=60):
    """[number,H,W,1]: the masks of training steps."""
    masks = Masks(kind, *size)
    return np.array([masks.draw(np.random.RandomState([0, 1, step])) for step in range(number)])


@pytest.mark.parametrize('height,width', [(32, 32), (112, 92), (218, 178)])
def test_masks(height, width):
    center = datamanager.center_mask(height, width)
    top, bottom, left, right = datamanager.bounding_box(center)
    assert (bottom - top, right - left) == (height // 3, width // 3) and center.sum() == (height // 3) * (width // 3)
    assert abs(top - (height - bottom)) <= 1 and abs(left - (width - right)) <= 1
    lower = lower_mask(height, width)
    assert .15 < lower.mean() < .3 and not lower[:int(.45 * height)].any()
    random = np.random.RandomState(0)
    for _ in range(50):
        mask = random_mask(height, width, random)
        top, bottom, left, right = datamanager.bounding_box(mask)
        assert height // 4 <= bottom - top <= height // 2 and width // 4 <= right - left <= width // 2
        assert mask.sum() == (bottom - top) * (right - left)


def test_mask_from_a_file(tmp_path):
    drawn = np.zeros((64, 48), np.uint8)
    drawn[16:32, 24:] = 255
    Image.fromarray(drawn).save(str(tmp_path / 'mask.png'))
    assert (make_mask(str(tmp_path / 'mask.png'), 32, 24)[:, :, 0] == (drawn[::2, ::2] > 0)).all()
    with pytest.raises(DataError, match='aspect'):
        make_mask(str(tmp_path / 'mask.png'), 64, 64)
    for colour, reason in ((0, 'empty'), (255, 'whole')):
        Image.new('L', (32, 32), colour).save(str(tmp_path / 'flat.png'))
        with pytest.raises(DataError, match=reason):
            make_mask(str(tmp_path / 'flat.png'), 32, 32)


def strokes(colour, ground, size=(48, 64)):
    """An RGBA picture, brush strokes with soft edges of a colour on a ground, [H,W] bool where they are."""
    shape = Image.new('L', (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(shape).ellipse((40, 60, 120, 160), fill=255)
    shape = shape.resize(size, Image.BICUBIC)
    return Image.composite(Image.new('RGBA', size, colour), Image.new('RGBA', size, ground), shape), np.asarray(shape) > 127


@pytest.mark.parametrize('colour,ground', [
    ((0, 0, 0, 255), (0, 0, 0, 0)), ((255, 255, 255, 255), (0, 0, 0, 0)), ((255, 255, 255, 255), (255, 255, 255, 0)),
    ((250, 30, 40, 255), (250, 30, 40, 0)), ((255, 255, 255, 255), (0, 0, 0, 255)), ((255, 255, 255, 200), (0, 0, 0, 200)),
    ((255, 255, 255, 3), (0, 0, 0, 3))])
@pytest.mark.parametrize('kind', ['RGBA', 'LA', 'P'])
def test_strokes_are_the_hole_whether_drawn_in_colours_or_alpha(tmp_path, kind, colour, ground):
    image, hole = strokes(colour, ground)
    if kind == 'P':
        image = image.quantize(256)
    elif kind == 'LA':
        image = image.convert('LA')
    image.save(str(tmp_path / 'mask.png'))
    mask = file_mask(str(tmp_path / 'mask.png'), 64, 48)[:, :, 0] > 0
    assert (mask == hole).mean() > .99 and .1 < hole.mean() < .5


@pytest.mark.skipif('HEIF' not in datamanager.FORMATS, reason='TensorFlow 2.21 only')
def test_masks_and_photos_of_newer_kinds(tmp_path):
    for name in 'masks', 'photos':
        (tmp_path / name).mkdir()
    image, hole = strokes((0, 0, 0, 255), (0, 0, 0, 0))
    face = Image.open(face_paths()[0]).resize((48, 64)).convert('RGB')
    for kind, extension in (('HEIF', '.heic'), ('WEBP', '.webp'), ('AVIF', '.avif'), ('TIFF', '.tiff')):
        image.save(str(tmp_path / 'masks' / (kind + extension)), kind, quality=90)
        face.save(str(tmp_path / 'photos' / (kind + extension)), kind, quality=90, dpi=(300, 300))
    restored = list(Photos([str(tmp_path / 'photos')], str(tmp_path / 'masks'), (32, 24, 3), str(tmp_path)))
    assert len(restored) == 4
    for photo in restored:
        assert (photo.hole[:, :, 0] == hole).mean() > .98 and np.abs(photo.pixels - np.asarray(face, int)).mean() < 4


def test_a_mask_that_does_not_tell_its_hole_is_refused(tmp_path):
    image, hole = strokes((0, 0, 0, 0), (0, 0, 0, 255))
    photo = Image.open(face_paths()[0]).resize((48, 64)).convert('RGB')
    photo.putalpha(image.getchannel('A'))  # with a part erased
    photo.save(str(tmp_path / 'erased.png'))
    with pytest.raises(DataError, match='erased.png: the mask has colours and transparent parts'):
        file_mask(str(tmp_path / 'erased.png'), 64, 48)
    with pytest.raises(DataError, match='erased.png: the mask is the photo itself'):
        Photo(str(tmp_path / 'erased.png'), 'erased', str(tmp_path / 'erased.png'), (32, 32, 1), None)


def test_a_hole_of_more_than_half_is_remarked_on(tmp_path):
    Image.open(face_paths()[0]).resize((48, 64)).save(str(tmp_path / 'photo.png'))
    for last, words in ((8, '25.0 % of the picture'), (24, '75.0 % of the picture (it is the white of a mask that is repainted)')):
        rectangle(tmp_path / 'mask.png', 0, 64, 0, last * 3 // 2)
        photo = Photo(str(tmp_path / 'photo.png'), 'photo', str(tmp_path / 'mask.png'), (32, 24, 1), None)
        assert photo.summary().endswith('; the hole takes ' + words)


@pytest.mark.parametrize('size', [(32, 32), (112, 92), (128, 128)])
def test_free_masks_hide_a_tenth_to_a_third_each_time_otherwise(size):
    masks = drawn('free', size)
    shares = masks.mean((1, 2, 3))
    assert shares.min() >= .1 and shares.max() <= 1 / 3. and shares.std() > .03
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert (masks.mean(0) > 0).mean() > .95 and masks.mean(0).max() < .6  # anywhere, nowhere always
    corners = [datamanager.bounding_box(mask) for mask in masks]
    assert max(mask[t:b, l:r].mean() for mask, (t, b, l, r) in zip(masks, corners)) < 1  # no mere rectangles
    assert (masks == drawn('free', size)).all()


def test_lower_moves_in_training_and_rests_in_a_test():
    masks, still = drawn('lower', (128, 128)), lower_mask(128, 128)
    tops, bottoms, lefts, rights = np.transpose([datamanager.bounding_box(mask) for mask in masks])
    assert tops.min() < 64 < 76 < tops.max()              # from the nose bridge to just above the mouth
    assert bottoms.min() > 110 and np.ptp(lefts) > 5 and np.ptp(rights) > 5
    assert masks[:, 92, 64].all() and not masks[:, :45].any()  # the mouth always, the eyes never
    assert (Masks('lower', 128, 128).test(7, 'a.png') == still).all()


def test_several_kinds_take_turns(tmp_path, colour_faces):
    rectangle(tmp_path / 'a.png', 0, 10, 0, 48)
    kinds = 'center,lower,free,%s' % (tmp_path / 'a.png')
    center, file = datamanager.center_mask(64, 48), file_mask(str(tmp_path / 'a.png'), 64, 48)
    masks = drawn(kinds, number=200)
    for mask in (center, file):
        assert 25 < (masks == mask).all((1, 2, 3)).sum() < 75
    data = Dataset(str(colour_faces), (64, 48), Masks(kinds, 64, 48), cache=str(tmp_path / 'cache'))
    tests = {row: mask for rows, mask in data.tests(32) for row in rows}
    assert sorted(tests) == list(data.test) and len(tests) == 4
    assert (tests[data.test[0]] == center).all() and (tests[data.test[3]] == file).all()
    assert (tests[data.test[1]] == lower_mask(64, 48)).all()
    assert len({mask.tobytes() for _, mask in data.epoch(0, 1)}) > 4


def test_a_test_is_the_same_for_the_same_seed(tmp_path, colour_faces):
    def masks(seed, kind='free'):
        data = Dataset(str(colour_faces), (64, 48), Masks(kind, 64, 48, seed), seed, str(tmp_path))
        return [mask.tobytes() for _, mask in data.tests(2)]
    assert masks(0) == masks(0) != masks(1) and len(set(masks(0))) == 4
    assert masks(0, 'random') == 2 * [datamanager.center_mask(64, 48).tobytes()]  # two runs of two faces


def test_a_folder_of_masks(tmp_path, colour_faces):
    for number, name in enumerate(('37.png', 'x.png', 'more/y.png')):
        rectangle(tmp_path / 'masks' / name, 8 * number, 8 * number + 20, 4, 40)
    (tmp_path / 'masks' / 'notes.txt').write_text('no mask')
    data = Dataset(str(colour_faces), (64, 48), Masks(str(tmp_path / 'masks'), 64, 48), cache=str(tmp_path / 'cache'))
    tops = {data.names[row]: datamanager.bounding_box(mask)[0] for rows, mask in data.tests(32) for row in rows}
    assert tops == {'36': 0, '37': 0, '38': 8, '39': 0}  # 37 by its name, all others in turn: 37, more/y, x
    assert {datamanager.bounding_box(mask)[0] for _, mask in data.epoch(0, 2)} == {0, 8, 16}


def test_in_a_folder_of_masks_jpegs_count_and_bad_ones_are_named(tmp_path, capsys):
    folder = tmp_path / 'masks'
    rectangle(folder / 'a.jpg', 0, 20, 4, 40)
    rectangle(folder / 'b.jpg', 8, 28, 4, 40)
    rectangle(folder / 'b.png', 16, 36, 4, 40)  # the better of two
    rectangle(folder / 'black.png', 0, 0, 0, 0)
    rectangle(folder / 'square.png', 0, 10, 0, 10, size=(64, 64))
    (folder / 'broken.png').write_bytes(b'\x89PNG')
    (folder / '._a.jpg').write_bytes(b'of a Mac')
    masks = Masks(str(folder), 64, 48)
    assert [datamanager.bounding_box(masks.test(0, name))[0] for name in ('a.pgm', 'b.pgm')] == [0, 16]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(': ')[0] for line in said] == ['skipped %s/%s.png' % (folder, name)
                                                      for name in ('black', 'broken', 'square')]
    again = Masks(str(folder), 64, 48).fingerprint
    rectangle(folder / 'a.jpg', 2, 20, 4, 40)
    assert Masks(str(folder), 64, 48).fingerprint != again == masks.fingerprint


def test_photos_and_masks_in_one_folder(tmp_path):
    for name in 'image1.png', 'image1_mask001.png':
        rectangle(tmp_path / 'both' / name, 0, 20, 4, 40)
    make = lambda: Photos([str(tmp_path / 'both')], str(tmp_path / 'both'), (32, 24, 1), str(tmp_path / 'results'))
    with pytest.raises(DataError, match='both: each image there is one of the masks: give --mask another folder'):
        make()
    Image.open(face_paths()[0]).resize((48, 64)).save(str(tmp_path / 'both' / 'image1.jpg'))
    photo, = make()
    assert datamanager.bounding_box(photo.hole) == (0, 20, 4, 40)


def test_a_path_with_commas_is_one_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rectangle(tmp_path / 'center,lower.png', 0, 10, 0, 48)
    assert drawn('center,lower.png', number=1)[0, :10].all()
    (tmp_path / 'center').mkdir()  # but the name of a kind is that kind
    assert (drawn('center', number=1)[0] == datamanager.center_mask(64, 48)).all()


@pytest.mark.parametrize('kind,words', [
    ('center,foo', ['foo: no such mask (of center,foo)', 'free']),
    ('center,', ["'': no such mask (of center,)"]),
    ('nowhere.png', ['nowhere.png: no such mask: give center']),
    ('empty', ['empty: no mask there: give --mask a folder']),
    ('square', ['square: no mask there that can be used', 'square/b.png', 'aspect']),
    ('center,black', ['black/c.png', 'empty', ', ...)']),
    ('broken.png', ['broken.png: cannot be read as a mask']),
])
def test_wrong_masks_get_a_sentence(tmp_path, monkeypatch, kind, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG')
    rectangle(tmp_path / 'square' / 'b.png', 0, 10, 0, 10, size=(64, 64))
    for name in 'c.png', 'd.png':
        rectangle(tmp_path / 'black' / name, 0, 0, 0, 0)
    with pytest.raises(DataError) as error:
        Masks(kind, 64, 48)
    for word in words:
        assert word in str(error.value)


def test_trains_and_tests_on_several_kinds(tmp_path, colour_faces):
    process = run(tmp_path, '--data', colour_faces, '--size', 32, '--epoch', 1, '--batch', 12, '--mask',
                  'center,lower,free', '--seed', 3)
    assert process.returncode == 0, process.stderr
    assert 'mask: center,lower,free' in process.stdout
    assert json.loads((tmp_path / 'checkpoints' / 'config.json').read_text())['mask'] == 'center,lower,free'
    tests = table(tmp_path / 'results' / 'test.csv')
    assert [row['image'] for row in tests] == ['36', '37', '38', '39']  # in their order, whatever shared a run
    masks = Masks('center,lower,free', 32, 32, 3)
    for number, row in enumerate(tests):
        picture = np.asarray(Image.open(str(tmp_path / 'results' / 'test' / (row['image'] + '.png'))))
        hole = masks.test(number, '')[:, :, 0] > 0
        assert (picture[:, 32:64][hole] == 128).all()
        np.testing.assert_array_equal(picture[:, 64:][~hole], picture[:, :32][~hole])
    before = (tmp_path / 'results' / 'test.csv').read_bytes()
    assert run(tmp_path, '--data', colour_faces, '--test_only').returncode == 0
    assert (tmp_path / 'results' / 'test.csv').read_bytes() == before
    photo = run(tmp_path, '--restore', colour_faces / '00.jpg')
    assert photo.returncode == 0 and 'restored 1 of 1' in photo.stdout, photo.stderr
