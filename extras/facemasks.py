"""Where a face mask covers an aligned face: draws masks, learns to find them, finds them.

    python -m extras.facemasks FOLDER     learns anew from a folder of aligned faces without masks

The finder is a small U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) that learns from faces with
masks drawn on them (as Din et al. 2020, https://doi.org/10.1109/ACCESS.2020.2977386) and from faces without.
Aligned: see faces.EYES. Pictures are NHWC uint8 RGB; mask = 1 where the face mask is.
"""
import argparse
import functools
import os

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import datamanager
from extras.masks import lower_mask
from neuralnet import convolve, weight

SIDE = 128                            # pixels: at this size masks are drawn and found
FINE = 2                              # an outline is drawn so many times as large and averaged: smooth edges
WEIGHTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'checkpoints', 'facemasks.npz')

WIDTHS = (12, 24, 40, 56)            # channels of the finder's stages, the first at half the picture's size
STEPS, BATCH, RATE = 3500, 16, 2e-3   # of its training
DRAWN = 4                             # masks drawn on each of its training faces; half as many times it comes without
SUNGLASSES = .15                      # share of them that wear sunglasses, which are no face mask
CLOSED, GROWN = 5, 3                  # pixels of SIDE: gaps so wide are closed, then the hole is grown
CERTAIN = .35                         # probability from which a pixel is face mask: rather too much than a strip left
SMALLEST = .45                        # of the polygon masks.LOWER: a hole that covers less of it is no face mask

# The right half of each shape's outline, nose to chin: (x from the middle, y), as shares of width and height.
SHAPES = {
    'surgical': ((0, .56), (.09, .565), (.29, .575), (.31, .60), (.30, .78), (.19, .91), (0, .94)),
    'cloth': ((0, .53), (.07, .54), (.18, .60), (.33, .59), (.34, .72), (.22, .89), (.08, .96), (0, .97)),
    'ffp2': ((0, .52), (.06, .55), (.14, .63), (.26, .70), (.28, .78), (.22, .88), (.10, .96), (0, .97)),
}
KINDS = tuple(SHAPES) + ('black', 'patterned')  # the last two: any shape in another fabric


# ------------------------------------------------------------------------------------------------ drawing masks

def draw_mask(face, random, kinds=KINDS):
    """A face with a face mask drawn on it, and where it is.

    face: [H,W,3] uint8, aligned. random: numpy.random.RandomState. kinds: of KINDS, one of which is drawn.
    Returns ([H,W,3] uint8, [H,W,1] uint8).
    """
    height, width = face.shape[:2]
    face = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA) if face.shape[:2] != (SIDE, SIDE) else face
    kind = kinds[random.randint(len(kinds))]
    shape = kind if kind in SHAPES else list(SHAPES)[random.randint(len(SHAPES))]
    outline, middle = _outline(SHAPES[shape], random)
    body = _fill(outline, random.uniform(.5, 2.5))
    straps = np.maximum(_straps(outline, shape, random) - body, 0)
    fabric = _fabric(kind, face, random)
    fabric = _details(fabric, kind, outline, middle, random)
    strap = fabric[SIDE // 2:].mean((0, 1)) if random.rand() < .5 else _grey(random) * np.ones(3)
    light = _light(face, random)
    shadow = 1 - random.uniform(0, .5) * cv2.GaussianBlur(np.roll(body, random.randint(0, 4), 0), (0, 0), 2)[:, :, None]
    body, straps = body[:, :, None], straps[:, :, None]
    picture = face * np.where(body > 0, 1, shadow)
    picture = picture * (1 - straps) + 255 * strap * light * straps
    picture = picture * (1 - body) + 255 * fabric * _folds(shape, outline, middle, random) * light * body
    mask = (body + straps > .4).astype(np.uint8)
    picture = picture.clip(0, 255).astype(np.uint8)
    if (height, width) != (SIDE, SIDE):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return picture, mask.reshape(height, width, 1)


def _outline(half, random):
    """([n,2] float, middle): an outline of the shape's right half and its mirror image, in pixels of SIDE.

    Both halves are as wide as the head is turned; the whole is moved, bent and tilted a little.
    """
    half = np.array(half) + random.uniform(-.012, .012, (len(half), 2))
    half[[0, -1], 0] = 0
    worn = random.uniform(.0, .1) if random.rand() < .15 else random.uniform(-.05, .04)  # below the nose, or as usual
    half[:, 1] += worn * (1 - (half[:, 1] - .5) / .5)
    half[:, 1] = .7 + (half[:, 1] - .7) * random.uniform(.85, 1.12)
    turn = random.normal(0, .2)
    right, left = half * [random.uniform(.8, 1.12) * (1 + turn), 1], half[1:-1][::-1] * [-1, 1]
    left[:, 0] *= random.uniform(.95, 1.05) * (1 - turn) * right[:, 0].max() / half[:, 0].max() / (1 + turn)
    middle = .5 - .25 * turn + random.normal(0, .012)
    # The nose is nearer than the cheeks: it moves farther.
    points = np.concatenate([right, left])
    points[:, 0] += middle - .12 * turn * (1 - np.abs(points[:, 0]) / .35).clip(0)
    angle = np.radians(random.normal(0, 3))
    points = (points - [.5, .7]).dot([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + [.5, .7]
    return points * SIDE, middle * SIDE


def _fill(outline, softness):
    """[SIDE,SIDE] float32 in [0, 1]: the inside of an outline, its corners rounded by `softness` pixels."""
    canvas = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    cv2.fillPoly(canvas, [np.int32(np.round(outline * FINE))], 255)
    canvas = 255 * np.uint8(cv2.GaussianBlur(canvas, (0, 0), softness * FINE) > 127)
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / np.float32(255)


def _straps(outline, shape, random):
    """[SIDE,SIDE] float32 in [0, 1]: bent bands from the mask's upper and lower corners towards the ears, or none."""
    if random.rand() < .15:  # hidden by hair
        return np.zeros((SIDE, SIDE), np.float32)
    canvas = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    thick = random.uniform(1, 2.6) if random.rand() < .8 else random.uniform(2.6, 7)
    for side in (-1, 1):
        x = outline[:, 0] * side
        corners = outline[x > x.max() - .06 * SIDE]
        ear = np.array([SIDE * (.5 + side * random.uniform(.27, .41)), SIDE * random.uniform(.42, .56)])
        for corner in (corners[corners[:, 1].argmin()], corners[corners[:, 1].argmax()]):
            corner = corner * .94 + .06 * outline.mean(0)
            bend = (corner + ear) / 2 + random.uniform(-.03, .03, 2) * SIDE
            t = np.linspace(0, 1, 9)[:, None]
            curve = (1 - t) ** 2 * corner + 2 * t * (1 - t) * bend + t ** 2 * ear
            cv2.polylines(canvas, [np.int32(np.round(curve * FINE))], False, 255, max(1, int(thick * FINE)))
            if shape == 'ffp2' and random.rand() < .3:
                ear = ear + [0, -random.uniform(.05, .2) * SIDE]
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / np.float32(255)


def _colour(random, saturation=(.1, 1.), value=(.15, 1.)):
    """[3] float in [0, 1]: any hue."""
    hsv = np.float32([[[random.uniform(0, 360), random.uniform(*saturation), random.uniform(*value)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _grey(random):
    """A shade in [0, 1], mostly white or black."""
    return random.uniform(.75, 1) if random.rand() < .6 else random.uniform(.03, .6)


def _fabric(kind, face, random):
    """[SIDE,SIDE,3] float in [0, 1]: the unlit cloth of a face mask of `kind`."""
    if kind == 'surgical':
        pale = np.float32([(.62, .84, .93), (.45, .75, .9), (.68, .88, .83), (.93, .95, .96), (.95, .8, .85)])
        colour = pale[random.randint(len(pale))] + random.uniform(-.08, .08, 3)
    elif kind == 'ffp2':
        colour = np.ones(3) * _grey(random) + random.uniform(-.03, .03, 3)
    elif kind == 'black':
        colour = np.ones(3) * random.uniform(.02, .2) + random.uniform(0, .06, 3)
    else:
        colour = _colour(random)
    fabric = np.ones((SIDE, SIDE, 3)) * colour
    if kind == 'patterned':
        fabric = _pattern(fabric, face, random)
    return (fabric + random.normal(0, random.uniform(0, .02), (SIDE, SIDE, 1))).clip(0, 1)


def _smooth(random, sigma):
    """[SIDE,SIDE] float: smooth noise, mean 0, deviation 1."""
    noise = cv2.GaussianBlur(random.normal(size=(SIDE, SIDE)), (0, 0), sigma)
    return (noise - noise.mean()) / noise.std()


def _pattern(fabric, face, random):
    """Stripes, checks, dots, patches, flowers or a print on a fabric, [SIDE,SIDE,3]."""
    second = (_colour(random) if random.rand() < .7 else np.ones(3) * _grey(random)) * np.ones_like(fabric)
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, pitch = random.uniform(0, np.pi), random.uniform(3, 20)
    u, v = [np.sin(2 * np.pi / pitch * wave) for wave in (x * np.cos(angle) + y * np.sin(angle),
                                                         y * np.cos(angle) - x * np.sin(angle))]
    choice = random.randint(6)
    if choice == 5:  # a print: a part of the photo in other colours
        zoom, (left, top) = random.uniform(.5, 3), random.uniform(0, .6, 2) * SIDE
        move = np.float32([[zoom * np.cos(angle), -zoom * np.sin(angle), left], [zoom * np.sin(angle),
                                                                               zoom * np.cos(angle), top]])
        part = cv2.warpAffine(face, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_REFLECT)
        return np.ascontiguousarray(np.abs(random.randint(0, 2, 3) - part[:, :, random.permutation(3)] / 255.))
    if choice == 4:
        for _ in range(random.randint(5, 60)):
            center = tuple(int(place) for place in random.randint(0, SIDE, 2))
            axes = tuple(int(axis) for axis in random.randint(1, 12, 2))
            cv2.ellipse(fabric, center, axes, random.uniform(0, 180), 0, 360, _colour(random).tolist(), -1)
        return fabric
    painted = (u > random.uniform(-.7, .7), u * v > 0, u * v > .4, _smooth(random, pitch / 2) > random.uniform(-.7, .7))
    return np.where(painted[choice][:, :, None], second, fabric)


def _details(fabric, kind, outline, middle, random):
    """A fabric, [SIDE,SIDE,3], with a seam, a border, a nose wire, valves or a print of other colour on some."""
    points, other = [np.int32(np.round(outline))], (_colour(random) if random.rand() < .4 else
                                                    np.ones(3) * _grey(random)).tolist()
    if random.rand() < .3:
        cv2.polylines(fabric, points, True, other, int(random.randint(1, 6)), cv2.LINE_AA)
    if random.rand() < .25:  # along the nose
        top = outline[np.abs(outline[:, 0] - middle) < .13 * SIDE]
        top = top[top[:, 1] < .66 * SIDE]
        cv2.polylines(fabric, [np.int32(top[top[:, 0].argsort()] + [0, random.randint(2, 6)])], False, other, 2)
    if random.rand() < (.3 if kind != 'surgical' else .05):
        place, radius = (random.uniform(.06, .2) * SIDE, random.uniform(.68, .85) * SIDE), random.randint(4, 10)
        for side in (-1, 1)[random.randint(2):]:
            center = int(middle + side * place[0]), int(place[1])
            cv2.circle(fabric, center, int(radius), other, -1, cv2.LINE_AA)
            cv2.circle(fabric, center, int(radius) - 2, [.7 * shade for shade in other], 1, cv2.LINE_AA)
    if random.rand() < .15:  # a small picture or a label
        center = int(random.uniform(.3, .7) * SIDE), int(random.uniform(.65, .85) * SIDE)
        axes = tuple(int(axis) for axis in random.randint(3, 14, 2))
        cv2.ellipse(fabric, center, axes, 0, 0, 360, _colour(random).tolist(), -1, cv2.LINE_AA)
    return fabric


def _folds(shape, outline, middle, random):
    """[SIDE,SIDE,1] float about 1: pleats across, a seam down the middle, wrinkles; darker towards the sides."""
    y, x = np.mgrid[:SIDE, :SIDE]
    across = (x - middle) / (.35 * SIDE)
    light = 1 - random.uniform(0, .35) * across ** 2 + random.uniform(-.2, .2) * across
    down = (y - outline[:, 1].min()) / np.ptp(outline[:, 1])
    light = light * (1 + random.uniform(-.1, .25) * (.5 - down))
    if shape == 'surgical' and random.rand() < .8:
        pleat = (down + random.uniform(-.1, .1) * across ** 2) * random.uniform(3, 5) % 1
        light = light * (1 - random.uniform(.02, .2) * (pleat ** random.uniform(1, 6)))
    elif random.rand() < .7:
        seam = np.exp(-((x - middle) / random.uniform(.7, 2.5)) ** 2)
        light = light * (1 + random.uniform(-.3, .1) * seam - random.uniform(-.12, .12) * np.sign(across))
    wrinkles = cv2.resize(_smooth(random, random.uniform(2, 8)), None, fx=random.uniform(1, 3), fy=1)[:, :SIDE]
    return (light * (1 + random.uniform(0, .08) * wrinkles))[:, :, None]


def _light(face, random):
    """[SIDE,SIDE,3] float: the face's own light, smoothed, as bright and coloured as the fabric might take it."""
    grey = cv2.GaussianBlur(face.mean(2), (0, 0), 12)
    relative = (grey / grey[SIDE // 2:].mean().clip(1)) ** random.uniform(0, .7)
    bright = random.uniform(.55, 1.1) * (np.percentile(face, 90) / 200.).clip(.4, 1)
    return (bright * relative)[:, :, None] * (1 + random.uniform(-.07, .07, 3))


# ---------------------------------------------------------------------------------------------------- learning

def _sunglasses(face, random):
    """A face, [SIDE,SIDE,3] uint8, aligned, with dark or coloured glasses over its eyes."""
    canvas, pixels = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8), face.astype(np.float32)
    scaled = lambda *point: tuple(int(round(share * SIDE * FINE)) for share in point)
    apart, y = random.uniform(.115, .14), random.uniform(.47, .5)
    axes = scaled(random.uniform(.07, .115), random.uniform(.05, .085))
    for side in (-1, 1):
        center = scaled(.5 + side * apart, y)
        cv2.ellipse(canvas, center, axes, random.uniform(-10, 10) * side, 0, 360, 255, -1)
        cv2.line(canvas, center, scaled(.5 + side * random.uniform(.3, .36), y - .03), 255, random.randint(2, 8))
    cv2.line(canvas, scaled(.5 - apart, y - .02), scaled(.5 + apart, y - .02), 255, random.randint(2, 8))
    lens = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[:, :, None] / np.float32(255)
    colour = 255 * (_colour(random, value=(.05, .6)) if random.rand() < .5 else np.ones(3) * random.uniform(.02, .25))
    glass = colour * (1 + random.uniform(0, .5) * _smooth(random, random.uniform(3, 12)))[:, :, None]
    return (pixels + random.uniform(.6, 1) * lens * (glass - pixels)).clip(0, 255).astype(np.uint8)


def _vary(face, mask, random):
    """A face and its mask moved, turned, scaled, mirrored, and the face lit, coloured, blurred anew."""
    scale, angle = np.exp(random.normal(0, .15)), random.normal(0, 6)
    move = cv2.getRotationMatrix2D((.5 * SIDE, .6 * SIDE), angle, scale) + np.float32([[0, 0, 1], [0, 0, 1]]) * (
        random.normal(0, .03 * SIDE, (2, 1)))
    face = cv2.warpAffine(face, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(mask, move, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    if random.rand() < .5:
        face, mask = face[:, ::-1], mask[:, ::-1]
    face = face.astype(np.float32)
    if random.rand() < .15:
        face = face.mean(2, keepdims=True) * np.ones(3, np.float32)
    if random.rand() < .3:
        face = cv2.GaussianBlur(face, (0, 0), random.uniform(.3, 1.5))
    face = face * random.uniform(.7, 1.2) * random.uniform(.92, 1.08, 3) + random.uniform(-25, 25)
    return face.clip(0, 255).astype(np.uint8), mask


def conv(x, width, name, gain=2., activation=tf.nn.elu):
    """3x3 convolution of x, [N,H,W,C], to [N,H,W,width]. Its channels are no pairs: a mask need not be symmetric."""
    channels = int(x.shape[-1])
    with tf.variable_scope(name):
        kernel = weight('kernel', [3, 3, channels, width], 9 * channels, gain)
        bias = tf.get_variable('bias', [width], tf.float32, tf.zeros_initializer())
        return activation(tf.nn.bias_add(convolve(x, kernel), bias))


def finder(images):
    """Logits of where the face mask is, [N,SIDE,SIDE,1], in images [N,SIDE,SIDE,3] in [0, 255], as a U-Net."""
    x, known = tf.space_to_depth(images / 127.5 - 1, 2), []
    for stage, width in enumerate(WIDTHS):
        if stage:
            known.append(x)
            x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')
        x = conv(x, width, 'down%d' % stage)
    x = conv(x, WIDTHS[-1], 'bottom')
    for stage in reversed(range(len(WIDTHS) - 1)):
        x = tf.concat([tf.image.resize_nearest_neighbor(x, known[stage].shape[1:3]), known[stage]], 3)
        x = conv(x, WIDTHS[stage], 'up%d' % stage)
    return tf.depth_to_space(conv(x, 4, 'logits', 1., tf.identity), 2)


def learn(faces, path, kinds=KINDS, steps=STEPS, seed=0):
    """Train a finder on faces, [N,SIDE,SIDE,3] uint8, aligned and without masks; save its weights as a .npz at path."""
    random = np.random.RandomState(seed)
    faces = [_sunglasses(face, random) if random.rand() < SUNGLASSES else face for face in faces]
    examples = [(face, np.zeros((SIDE, SIDE, 1), np.uint8)) for face in faces] * (DRAWN // 2)
    for _ in range(DRAWN):
        examples += [draw_mask(face, random, kinds) for face in tqdm(faces, 'drawing', unit='mask', leave=False)]
    with tf.Graph().as_default(), tf.variable_scope('finder'):
        tf.set_random_seed(seed)
        images = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3])
        masks = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 1])
        rate = tf.placeholder(tf.float32, [])
        logits, wanted = finder(tf.cast(images, tf.float32)), tf.cast(masks, tf.float32)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits))
        train = tf.train.AdamOptimizer(rate).minimize(loss)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            bar, mean = tqdm(range(steps), 'learning', unit='step', mininterval=1), 1.
            for step in bar:
                rows = random.randint(0, len(examples), BATCH)
                batch = [_vary(*examples[row], random=random) for row in rows]
                value, _ = session.run([loss, train], {
                    images: [face for face, _ in batch], masks: [mask.reshape(SIDE, SIDE, 1) for _, mask in batch],
                    rate: RATE * (1 - step / steps)})
                mean += .02 * (value - mean)
                bar.set_postfix_str('loss %.4f' % mean, refresh=False)
            weights = {v.op.name: session.run(v).astype(np.float16) for v in tf.trainable_variables()}
    with open(path + '.part', 'wb') as file:  # whole, or not at all
        np.savez_compressed(file, **weights)
    os.replace(path + '.part', path)


# ----------------------------------------------------------------------------------------------------- finding

@functools.lru_cache(None)
def _ready(path):
    """The finder with the weights of `path`, as a function of [SIDE,SIDE,3] uint8 to [SIDE,SIDE] float32 in [0, 1]."""
    weights = np.load(path)
    with tf.Graph().as_default() as graph, tf.variable_scope('finder'):
        images = tf.placeholder(tf.uint8, [None, SIDE, SIDE, 3])
        share = tf.sigmoid(finder(tf.cast(images, tf.float32)))
        session = tf.Session(graph=graph)
        session.run([variable.assign(weights[variable.op.name].astype(np.float32))
                     for variable in tf.trainable_variables()])
    return lambda face: session.run(share, {images: face[None]})[0, :, :, 0]


def find_mask(face, path=WEIGHTS):
    """[H,W,1] uint8, the hole: 1 where a face mask covers the face, and GROWN pixels around it; zeros: it wears none.

    face: [H,W,3] uint8, aligned. path: weights that `learn` saved.
    """
    height, width = face.shape[:2]
    share = _ready(path)(cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    hole = cv2.morphologyEx(np.uint8(share > CERTAIN), cv2.MORPH_CLOSE, disc(CLOSED))
    _, parts, _, _ = cv2.connectedComponentsWithStats(hole)
    lower = lower_mask(SIDE, SIDE)[:, :, 0]
    covered = np.bincount(parts[(lower * hole) > 0], minlength=1)
    if covered.max() < SMALLEST * lower.sum():
        return np.zeros((height, width, 1), np.uint8)
    outlines = cv2.findContours(np.uint8(parts == covered.argmax()), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    hole = widen(cv2.drawContours(hole * 0, outlines, -1, 1, -1))
    return (cv2.resize(np.float32(hole), (width, height)) > .5).astype(np.uint8)[:, :, None]


def widen(mask):
    """A mask, [SIDE,SIDE] or [SIDE,SIDE,1] uint8, with GROWN pixels around it, so that no strip is left: [SIDE,SIDE]."""
    return cv2.dilate(mask, disc(2 * GROWN + 1))


def disc(pixels):
    """[pixels,pixels] uint8: a disc, OpenCV's structuring element."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pixels, pixels))


def load_faces(folder):
    """[N,SIDE,SIDE,3] uint8: the aligned faces of a folder. Raises DataError where there are none or one is broken."""
    names = [name for name in datamanager.find_files(folder) if datamanager.named_like_image(name)]
    if len(names) < 2:
        raise datamanager.DataError('%s: fewer than two images: give a folder of faces' % datamanager.shown(folder))
    return np.array([datamanager.load_image(os.path.join(folder, name), SIDE, SIDE, 3) for name in names])


def split(faces):
    """(train, test): each tenth is kept to test on."""
    test = np.arange(len(faces)) % 10 == 0
    return faces[~test], faces[test]


def main():
    """Learn anew, from nine tenths of a folder's faces, the weights that find_mask uses."""
    parser = argparse.ArgumentParser(prog='python -m extras.facemasks', description='Learn to find face masks.')
    parser.add_argument('folder', help='aligned faces without face masks')
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    try:
        learn(split(load_faces(parser.parse_args().folder))[0], WEIGHTS)
    except datamanager.DataError as error:
        parser.exit(2, '%s\n' % error)


if __name__ == '__main__':
    main()
