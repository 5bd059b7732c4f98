"""`--restore`: people's own photos, through the command line."""
import numpy as np
import pytest
from PIL import Image, ImageOps

import datamanager
import tf_process
from conftest import face_paths, run


def photo(size=(90, 120)):
    """A colour photo of a packaged face, with some ground around it."""
    face = Image.open(face_paths()[5]).resize(size, Image.BICUBIC)
    return Image.merge('RGB', [face, face.point(lambda v: v * .7), face.point(lambda v: v * .4)])


def restored(folder, name):
    with Image.open(str(folder / 'results' / 'restored' / name)) as image:
        image.load()
        return image


def hole_of(size, mask='center'):
    """Where the hole of a named mask lies on a photo of `size` for the square network of the `trained` fixture."""
    left, top, right, bottom = [int(round(side)) for side in datamanager.crop_box(size, 32, 32)]
    hole = np.zeros(size[::-1], bool)
    hole[top:bottom, left:right] = datamanager.make_mask(mask, bottom - top, right - left)[:, :, 0] > 0
    return hole


@pytest.fixture
def model(trained, tmp_path):
    """A folder to work in, and the arguments that name the trained model."""
    return tmp_path, ['--checkpoints', trained[0] / 'checkpoints']


def test_every_kind_of_photo_keeps_what_lies_outside_the_hole(model):
    folder, options = model
    photos = folder / 'my photos'
    photos.mkdir()
    colour = photo()
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(str(photos / 'plain.png'))
    colour.save(str(photos / 'turned.jpg'), exif=turned, quality=90)
    colour.convert('L').save(str(photos / 'grey.pgm'))
    colour.quantize(32).save(str(photos / 'palette.png'))
    colour.resize((300, 100)).save(str(photos / 'wide.bmp'))
    clear = colour.convert('RGBA')
    clear.putalpha(Image.linear_gradient('L').resize(colour.size))
    clear.save(str(photos / 'clear.png'))
    deep = (np.asarray(colour.convert('L')).astype(np.uint16) * 257 + 31).clip(0, 65535).astype(np.uint16)
    Image.fromarray(deep).save(str(photos / 'deep.png'))
    (photos / 'notes.txt').write_text('not a photo')
    process = run(folder, '--restore', photos, *options)
    assert process.returncode == 0, process.stderr
    assert 'restored 7 of 7' in process.stdout
    for path in sorted(photos.glob('*.*')):
        if path.suffix == '.txt':
            continue
        with Image.open(str(path)) as image:
            before = ImageOps.exif_transpose(image)
        if before.mode == 'P':
            before = before.convert('RGB')
        after = restored(folder, path.stem + '.png')
        assert after.size == before.size, path.name
        hole = hole_of(before.size)
        before, after = np.asarray(before).astype(int), np.asarray(after).astype(int)
        assert after.shape == before.shape
        np.testing.assert_array_equal(after[~hole], before[~hole], path.name)
        assert np.abs(after[hole] - before[hole]).mean() > .002 * before.max()
    assert Image.open(str(folder / 'results' / 'restored_grid.png')).size[0] > 5 * 3 * tf_process.TILE


def test_what_the_hole_held_has_no_influence(model):
    folder, options = model
    plain = photo()
    spoiled = np.array(plain)
    spoiled[hole_of(plain.size)] = (0, 255, 0)
    plain.save(str(folder / 'plain.png'))
    Image.fromarray(spoiled).save(str(folder / 'spoiled.png'))
    process = run(folder, '--restore', 'plain.png', 'spoiled.png', *options)
    assert process.returncode == 0, process.stderr
    plain, spoiled = [np.asarray(restored(folder, name)) for name in ('plain.png', 'spoiled.png')]
    np.testing.assert_array_equal(plain, spoiled)


def test_the_seam_is_smooth(model):
    folder, options = model
    original = photo((270, 360))
    original.save(str(folder / 'face.png'))
    assert run(folder, '--restore', 'face.png', *options).returncode == 0
    hole, after = hole_of(original.size), np.asarray(restored(folder, 'face.png')).astype(float)
    jump = lambda picture: np.abs(np.diff(picture, axis=1))[np.diff(hole.astype(int), axis=1) != 0].mean()
    assert jump(after) < 2 * jump(np.asarray(original).astype(float)) + 2


def test_masks_of_ones_own(model):
    folder, options = model
    photos, masks = folder / 'photos', folder / 'masks'
    (photos / 'sub').mkdir(parents=True)
    masks.mkdir()
    for name in ('a.png', 'sub/b.jpg', 'c.png', 'd.png', 'e.png', 'f.png'):
        photo().save(str(photos / name))
    (photos / 'g.png').write_bytes((photos / 'a.png').read_bytes()[:300])
    hole = np.zeros((60, 45), np.uint8)
    hole[35:52, 8:30] = 255
    Image.fromarray(hole).resize((90, 120), Image.NEAREST).save(str(masks / 'a.png'))
    Image.fromarray(hole).save(str(masks / 'b.png'))
    Image.fromarray(hole * 0).save(str(masks / 'c.png'))
    Image.fromarray(hole * 0 + 255).save(str(masks / 'd.png'))
    Image.fromarray(hole[:30]).save(str(masks / 'e.png'))
    Image.fromarray(hole).save(str(masks / 'g.png'))
    process = run(folder, '--restore', photos, '--mask', masks, *options)
    assert process.returncode == 2 and 'Traceback' not in process.stderr
    for words in (('c.png', 'empty'), ('d.png', 'whole'), ('e.png', 'aspect'), ('f.png', 'no mask of that name'),
                  ('g.png', 'cannot be read'), ('5 of 7',)):
        assert any(all(word in line for word in words) for line in process.stderr.replace('\r', '\n').split('\n')), words
    assert 'trained with mask center' in process.stdout and 'restored 2 of 7' in process.stdout
    before, hole = np.asarray(photo()), np.kron(hole, np.ones((2, 2), int)) > 0
    after = np.asarray(restored(folder, 'a.png'))
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).mean() > .5
    assert (folder / 'results' / 'restored' / 'sub_b.png').exists()
    process = run(folder, '--restore', photos / 'a.png', '--mask', 'lower', *options)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize('arguments,words', [
    (['--restore', 'face.png', '--checkpoints', 'none'], ['no trained model', 'train']),
    (['--restore', 'nowhere.png'], ['nowhere.png', 'cannot be read', '1 of 1']),
    (['--restore', 'empty'], ['empty', 'no image']),
    (['--restore', 'face.png', '--mask', 'random'], ['random', 'center']),
    (['--restore', 'face.png', '--size', '64'], ['[32, 32]', '64']),
    (['--restore', 'face.png', '--restart'], ['--restart']),
    (['--restore', 'results/restored/face.png'], ['face.png', 'own restoration']),
])
def test_bad_requests_get_a_sentence_and_status_2(model, arguments, words):
    folder, options = model
    (folder / 'empty').mkdir()
    (folder / 'results' / 'restored').mkdir(parents=True)
    for path in (folder / 'face.png', folder / 'results' / 'restored' / 'face.png'):
        photo().save(str(path))
    before = (folder / 'results' / 'restored' / 'face.png').read_bytes()
    process = run(folder, *arguments + ([] if '--checkpoints' in arguments else options))
    assert process.returncode == 2 and 'Traceback' not in process.stderr
    for word in words:
        assert word in process.stderr, process.stderr
    assert (folder / 'results' / 'restored' / 'face.png').read_bytes() == before


def test_test_only_with_another_mask_and_a_folder_without_training_part(model):
    folder, options = model
    (folder / 'faces' / 'test').mkdir(parents=True)
    Image.open(face_paths()[0]).save(str(folder / 'faces' / 'test' / 'one.png'))
    process = run(folder, '--test_only', '--data', 'faces', '--mask', 'lower', *options)
    assert process.returncode == 0, process.stderr
    assert 'test of 1 faces' in process.stdout and 'trained with mask center' in process.stdout


@pytest.mark.parametrize('side', [40, 700])
def test_harmonic_fill_continues_a_plane_exactly(side):
    y, x = np.mgrid[:side, :side] / float(side)
    plane = np.stack([x, y, x + y], 2)
    hole = np.zeros((side, side), bool)
    hole[side // 5:-side // 5, side // 4:] = True  # reaches the border on one side
    hole[:, -side // 10:] = False
    filled = tf_process.harmonic(np.where(hole[:, :, None], 9., plane), hole)
    np.testing.assert_allclose(filled, plane, atol=1e-9 if side == 40 else .01)
