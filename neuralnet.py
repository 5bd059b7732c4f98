"""The context encoder and its adversary as one static TensorFlow graph.

Context Encoders: Feature Learning by Inpainting, Pathak et al., CVPR 2016, https://arxiv.org/abs/1604.07379.

Everything is NHWC; images are in [0, 1] inside the graph; mask = 1 in the hole. The data flow:

    images, mask --> smooth_fill --> encoder --> channel-wise layer --> decoder --> difference
                         |                                                             |
                         +-------------------------- add ------------------------------+--> fill of the window
                                                                                             |        |
                                                                    reconstruction loss <----+        +--> discriminator

The decoder paints, and the discriminator judges, only the *window*: the part of the picture around the hole.
Stages are counted from the coarsest, 0, so that those of a network for pictures of half the size have the same names.
Written against `tensorflow.compat.v1`, so that the same file runs on TensorFlow 1.14 and on 2.x.
"""
import numpy as np
import tensorflow.compat.v1 as tf

WIDTHS = (256, 128, 128, 64, 32) + (16,) * 4  # channels of the stages, from the coarsest on; even, see pair()
PAINTER = 5                           # the first stage that sees the picture itself, and paints: the finest of a small network
WINDOW_STAGE = 2                      # where the decoder cuts out the window: its sides and origin are multiples of its cells
SMALL, FAINT = .2, 1e-4               # gains of weights whose result is added: in a residual, or where a network grows; else 2
ADVERSARY = 8e-4                      # weight of the adversarial loss per hidden value, since the squared error is a sum over
                                      # them: 4.2 for the 42x42x3 of a 128x128 photo
SMALLEST = 2 ** PAINTER               # pixels a side of a picture, for a coarsest stage of at least one cell
PLAYERS = 'generator', 'discriminator'
LOSSES = ('loss_rec', 'loss_adv', 'loss_dis', 'acc_real', 'acc_fake')


# ---------------------------------------------------------------------------------------------------- layers

def weight(name, shape, fan_in, gain=2.):
    """A float32 variable of `shape`, normal with standard deviation sqrt(gain / fan_in).

    gain 2 keeps a signal alive through many rectified layers (He et al. 2015, https://arxiv.org/abs/1502.01852).
    """
    return tf.get_variable(name, shape, tf.float32, tf.random_normal_initializer(stddev=np.sqrt(gain / fan_in)))


def bias(x):
    """Add a learned bias, zero at first, to each channel of x, [N,H,W,C]; the same to both of a pair."""
    half = tf.get_variable('bias', [x.shape[-1] // 2], tf.float32, tf.zeros_initializer())
    return tf.nn.bias_add(x, tf.cast(both(half, half, 0), x.dtype))


def both(x, y, axis):
    """tf.concat([x, y], axis) of two of one static shape. Its gradient has fewer operations: the graph is built sooner."""
    shape = x.shape.as_list()
    shape[axis] *= 2
    return tf.reshape(tf.stack([x, y], axis), shape)


def reverse(x, view):
    """x, reversed along the middle one of the three axes of `view`, a shape; TensorFlow 1.14 is slow with more axes."""
    return tf.reshape(tf.reverse(tf.reshape(x, view), [1]), x.shape.as_list())


def pair(kernel, paired=True):
    """A kernel, [k,k,I,O], for twice as many output channels: the new ones are the mirror images of the others.

    A mirrored face is a face, too, and what is known of one side helps to paint the other. So channels come in pairs:
    those of the first half of a layer see what those of the second half see in the mirrored picture. Then the generator
    restores a mirrored picture to the mirror image of the restoration, with half of the weights to learn (Cohen & Welling
    2016, https://arxiv.org/abs/1602.07576). paired: whether the inputs are pairs, too, whose halves change places then.
    """
    side = int(kernel.shape[0])  # below, columns and halves of the inputs are one axis: reversed, both change places
    return both(kernel, reverse(kernel, [side, 2 * side if paired else side, -1]), 3)


def fold(x):
    """The mean of each pair of channels of x, [N,H,W,2C]: [N,H,W,C]."""
    return tf.add_n(tf.split(x, 2, 3)) / 2


def convolve(x, kernel, padding='SAME'):
    """Stride-1 convolution of x, [N,H,W,I], with a kernel, [k,k,I,O]: [N,H,W,O] for SAME (k odd), k - 1 less for VALID."""
    with tf.get_default_graph().gradient_override_map({'Conv2D': 'ForwardConvolution'} if tf.__version__ < '2' else {}):
        return tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding=padding)


@tf.RegisterGradient('ForwardConvolution')
def _convolve_gradients(op, dy):
    """The gradients of `convolve`, both forward convolutions: that of its input with the flipped kernel, that of its kernel
    with images and channels in each other's place.

    On TensorFlow 1.14's CPU kernels they take half the time of Conv2DBackpropInput, and at small batches 3/4 of -Filter's.
    """
    (x, kernel), padding = op.inputs, op.get_attr('padding').decode()
    side = int(kernel.shape[0])
    flipped = tf.transpose(reverse(kernel, [1, side ** 2, -1]), [0, 1, 3, 2])
    border = lambda cells: [[0, 0], [cells] * 2, [cells] * 2, [0, 0]]
    wide, around = (x, tf.pad(dy, border(side - 1))) if padding == 'VALID' else (tf.pad(x, border(side // 2)), dy)
    swapped = tf.nn.conv2d(tf.transpose(wide, [3, 1, 2, 0]), tf.transpose(dy, [1, 2, 0, 3]), strides=[1, 1, 1, 1], padding='VALID')
    return convolve(around, flipped, padding), tf.transpose(swapped, [1, 2, 0, 3])


def low(x):
    """x in the precision that the layers around compute in, which is the type of their variable scope."""
    return tf.cast(x, tf.get_variable_scope().dtype)


def conv(x, width, name, gain=2., activation=tf.nn.elu, side=3, paired=True):
    """Convolution of x, [N,H,W,C], by side x side cells, to [N,H,W,width]. paired: whether x comes in pairs."""
    inputs = side ** 2 * int(x.shape[-1])
    with tf.variable_scope(name):
        kernel = weight('kernel', [side, side, int(x.shape[-1]), width // 2], inputs, gain)
        return activation(bias(convolve(low(x), pair(low(kernel), paired))))


def residual(x, name):
    """x, [N,H,W,C], and a convolution of it, added (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Small at first: the deep network begins as a shallow one (Zhang et al. 2019, https://arxiv.org/abs/1901.09321).
    """
    return x + conv(x, int(x.shape[-1]), name, SMALL)


def up(x, width, name):
    """Transposed convolution of stride 2 of x, [N,H,W,C], to [N,2H,2W,width].

    Its kernel is 4x4: a 3x3 one would reach some pixels more often than others and paint checkerboards (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard). TensorFlow 1.14 is faster at a convolution by 2x2 cells to four times as
    many channels, 2x2 pixels of each cell (Shi et al. 2016, https://arxiv.org/abs/1609.07009): the same function.
    """
    channels = int(x.shape[-1])
    with tf.variable_scope(name):
        kernel = pair(low(weight('kernel', [4, 4, channels, width // 2], 4 * channels)))
        if tf.__version__ < '2':  # every other row and column of the kernel makes one of the four pixels
            parts = tf.transpose(tf.reshape(kernel, [2, 2, 2, 2, channels, width]), [0, 2, 4, 1, 3, 5])
            parts = tf.reshape(reverse(parts, [1, 4, -1]), [2, 2, channels, 4 * width])
            y = tf.depth_to_space(convolve(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), parts, 'VALID'), 2)[:, 1:-1, 1:-1]
        else:
            shape = tf.concat([tf.shape(x)[:3] * [1, 2, 2], [width]], 0)
            y = tf.nn.conv2d_transpose(low(x), tf.transpose(kernel, [0, 1, 3, 2]), shape, strides=2)
        return tf.nn.elu(bias(y))


def channel_wise(x, name):
    """The paper's channel-wise fully connected layer: in each channel every cell sees every other, channels do not mix.

    x: [N,h,w,C]; returns the same shape. One batched matrix product, [C,N,hw] x [C,hw,hw].
    """
    _, height, breadth, channels = x.shape.as_list()
    cells = height * breadth
    with tf.variable_scope(name):
        half = weight('kernel', [channels // 2, cells, cells], cells, SMALL)
        other = tf.reverse(tf.reshape(half, [-1] + 2 * [height, breadth]), [2, 4])
        kernel = both(half, tf.reshape(other, half.shape), 0)
        half = tf.get_variable('bias', [height, breadth, channels // 2], tf.float32, tf.zeros_initializer())
        each = both(half, tf.reverse(half, [1]), 2)
        flat = tf.cast(tf.transpose(tf.reshape(x, [-1, cells, channels]), [2, 0, 1]), tf.float32)
        mixed = tf.transpose(tf.matmul(flat, kernel), [1, 2, 0])
        return tf.nn.elu(tf.reshape(mixed, [-1, height, breadth, channels]) + each)


def pool(x, by=tf.nn.max_pool):
    """The largest of 2x2 cells of x, [N,H,W,C], or by tf.nn.avg_pool their means: [N,H/2,W/2,C], sides rounded up."""
    return by(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')


def with_hole(x, hole):
    """Pictures, [N,H,W,C] in [0, 1], in [-1, 1] and with one channel more: the hole, [1,H,W,1]."""
    return tf.concat([2 * x - 1, tf.tile(hole, tf.stack([tf.shape(x)[0], 1, 1, 1]))], 3)


def encoder(x, hole, stages):
    """The features of the stages from the coarsest on, a list of [N,H/2^s,W/2^s,width].

    x: pictures, [N,H,W,C] in [0, 1]; hole: [1,H,W,1]. Each stage from PAINTER on sees the picture itself at its size, and
    what finer ones found in it: so a network grows (Karras et al. 2018, https://arxiv.org/abs/1710.10196).
    """
    features, finer = [], None
    for stage in reversed(range(stages)):
        with tf.variable_scope('encode%d' % stage):
            if stage < PAINTER:
                y = residual(conv(pool(features[0]), WIDTHS[stage], 'first'), 'second')
            else:
                y = conv(with_hole(x, hole), WIDTHS[stage], 'see', paired=False)
                y = y if finer is None else y + finer
            if stage > PAINTER:
                finer = conv(pool(y), WIDTHS[stage - 1], 'found', FAINT, tf.identity)
                x, hole = pool(x, tf.nn.avg_pool), tf.cast(pool(hole, tf.nn.avg_pool) > .5, tf.float32)
            features.insert(0, y)
    return features


def decoder(x, features, window, channels):
    """The encoder's mirror image: x, [N,h,w,256] of the coarsest stage, to the picture's window, [N,H,W,channels] float32.

    The encoder's features, convolved, are added to the decoder's (U-Net, Ronneberger et al. 2015,
    https://arxiv.org/abs/1505.04597). window: see window_around(); it is cut out at WINDOW_STAGE: what lies farther
    from the hole is known and need not be painted. Each stage from PAINTER on paints, and what coarser ones painted is
    enlarged and added (Karras et al. 2020, https://arxiv.org/abs/1912.04958).
    """
    with tf.variable_scope('decode0'):
        x = residual(conv(x, WIDTHS[0], 'first'), 'second')
    painted = None
    for stage in range(1, len(features)):
        with tf.variable_scope('decode%d' % stage):
            here = window // 2 ** (len(features) - 1 - stage)
            seen = crop(features[stage], here) if stage > WINDOW_STAGE else features[stage]
            x = up(x, WIDTHS[stage], 'up') + conv(seen, WIDTHS[stage], 'shortcut', SMALL, tf.identity, side=1)
            x = residual(x, 'second')
            x = crop(x, here) if stage == WINDOW_STAGE else x
            if stage >= PAINTER:  # small at first: painting starts at the smooth fill, or at what a smaller network paints
                finer = conv(x, 2 * channels, 'paint', .01 if stage == PAINTER else FAINT, tf.identity)
                finer = fold(tf.cast(finer, tf.float32))
                painted = finer if painted is None else finer + tf.image.resize_bilinear(
                    painted, tf.shape(finer)[1:3], half_pixel_centers=True)
    return painted


def judge(windows, hole, stages):
    """Logits, [N,h,w,1] float32, that each patch of windows, [N,H,W,C] in [0, 1] with the hole [1,H,W,1], is real.

    A cell of the last of the stages is a patch (PatchGAN, Isola et al. 2017, https://arxiv.org/abs/1611.07004): where a
    window had one verdict, a few strong dots made up for texture that was missing everywhere else.
    """
    x = with_hole(windows, hole)
    for stage in range(stages):
        x = conv(pool(x) if stage else x, WIDTHS[max(PAINTER - stage, 0)], 'judge%d' % stage, paired=stage > 0)
    return tf.cast(fold(conv(x, 2, 'verdict', 1., tf.identity, side=1)), tf.float32)


def crop(x, window):
    """The part of x, [N,H,W,C], in `window`, see window_around: [N,h,w,C]."""
    y = tf.slice(x, *tf.unstack(window))
    y.set_shape([None, None, None, x.shape[-1]])
    return y


def smooth_fill(x, mask, halvings, sweeps=4):
    """Fill the hole smoothly from its rim: an approximately harmonic function, for any mask.

    Pull-push (Gortler et al. 1996, "The Lumigraph"): average the visible pixels down to few, then go up again, at
    each scale filling what is not seen with the next coarser scale and smoothing it with `sweeps` 3x3 box filters.
    x: [N,H,W,C], mask: [1,H,W,1], H and W multiples of 2 ** halvings; returns x with the hole filled.
    """
    _, height, width, channels = x.shape.as_list()
    # All pictures as the channels of one: TensorFlow's CPU kernels pool three channels as slowly as dozens.
    x = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [1, height, width, -1])
    pyramid = [(x * (1 - mask), 1 - mask)]  # (colour times visible share, visible share), finest first
    for _ in range(halvings):
        pyramid.append([pool(t, tf.nn.avg_pool) for t in pyramid[-1]])
    colour, share = [tf.reduce_mean(t, [1, 2], keepdims=True) for t in pyramid[-1]]
    fill = colour / tf.maximum(share, 1e-6)
    for colour, share in reversed(pyramid):
        hole = tf.cast(share <= 0, tf.float32)
        visible = colour / tf.maximum(share, 1e-6)
        fill = visible + hole * tf.image.resize_bilinear(fill, colour.shape[1:3], half_pixel_centers=True)
        for _ in range(sweeps):
            fill = visible + hole * tf.nn.avg_pool(fill, [1, 3, 3, 1], [1, 1, 1, 1], 'SAME')
    return tf.transpose(tf.reshape(fill, [height, width, -1, channels]), [2, 0, 1, 3])


def orthogonal(matrices, sweeps=3):
    """Each of a list of matrices, [m,n] with n <= m, with its columns made roughly orthonormal, times a factor.

    By Newton-Schulz iteration with the polynomial of Jordan et al. 2024, see ContextEncoder._descend. A matrix ends as itself
    times a polynomial of the products of its columns, [n,n]: so only these are iterated, those of one n at once. The factor makes
    a step's elements about .2, as Adam's are (Liu et al. 2025, https://arxiv.org/abs/2502.16982): one rate fits both.
    """
    done, alike = {}, {}
    for number, x in enumerate(matrices):
        alike.setdefault(int(x.shape[1]), []).append(number)
    for columns, numbers in sorted(alike.items()):
        products = tf.stack([tf.matmul(matrices[number], matrices[number], transpose_a=True) for number in numbers])
        norm = tf.maximum(tf.trace(products), 1e-12)[:, None, None]
        factor = np.float32([[[.2 * np.sqrt(int(matrices[number].shape[0]))]] for number in numbers])
        products, one = products / norm, np.eye(columns, dtype=np.float32)
        total = factor * tf.rsqrt(norm) * one
        for _ in range(sweeps):
            polynomial = 3.4445 * one - 4.7750 * products + 2.0315 * tf.matmul(products, products)
            total = tf.matmul(total, polynomial)
            products = tf.matmul(tf.matmul(products, polynomial), polynomial)
        done.update((number, tf.matmul(matrices[number], part)) for number, part in zip(numbers, tf.unstack(total)))
    return [done[number] for number in range(len(matrices))]


# --------------------------------------------------------------------------------------------------- network

def stages_of(shape):
    """Stages of the generator for pictures of shape (H, W, C): six where a side has up to 181 pixels, one more for each doubling."""
    return PAINTER + 1 + max(0, int(round(np.log2(min(shape[:2]) / 128))))


def window_around(mask, cell):
    """The window around the hole of mask, [H,W,1], as tf.slice asks: its origin, (0, top, left, 0), and its size,
    (-1, height, width, -1), in [2,4] int32; sides and origin are multiples of `cell` pixels, as H and W are.

    Divided by a stage's cell it is the window of that stage: -1, all, stays -1.
    """
    def side(axis):
        hidden = tf.cast(tf.reduce_any(mask > 0, [1 - axis, 2]), tf.int32)
        first = tf.argmax(hidden, output_type=tf.int32) // cell * cell
        last = int(mask.shape[axis]) - tf.argmax(tf.reverse(hidden, [0]), output_type=tf.int32)
        return first, -(-last // cell) * cell - first
    return tf.stack([(0, -1), side(0), side(1), (0, -1)], 1)


class ContextEncoder:
    """Generator, discriminator, losses and restoration for pictures of `shape` (H, W, C), with holes of any size.

    shape:      H, W >= SMALLEST; C 1 or 3.
    adv_weight: of the adversarial loss in the generator's, see ADVERSARY; 0: no discriminator.
    devices:    names or device functions, see tf.device; each trains on its share of every batch, and their gradients are
                summed before either player's weights change: those of the whole batch on one device. (): restores only.
    precision:  tf.float32, or tf.bfloat16 for the convolutions of training; all else is float32.
    Builds into the current default graph. Raises ValueError for a picture that is too small.

    Feed:
        images         [N,H,W,C] uint8
        mask           [H,W,1] uint8, 1 in the hole
        learning_rate  [] float32, of both players
    Fetch:
        update         one step of both players
        losses         [5] float32, the batch's LOSSES: squared error, adversarial and discriminator loss, shares of real and
                       restored patches judged rightly
        restored       [N,H,W,C] float32 in [0, 1], by the averaged generator; the input outside the hole
    State, saved with the weights: step [] int64; totals [6] float64, the epoch's sums of losses * N and of N;
        seconds [] float64, trained so far. parameters: numbers of weights of generator and discriminator, not saved.
    """

    average_decay = .998  # a step, of the generator's averaged weights (Polyak & Juditsky 1992)

    def __init__(self, shape, adv_weight=1., devices=(None,), precision=tf.float32):
        if min(shape[:2]) < SMALLEST:
            raise ValueError('pictures of %dx%d are too small: %d pixels a side at least' % (shape[0], shape[1], SMALLEST))
        self.shape, self._weight, self._precision = tuple(int(side) for side in shape), adv_weight, precision
        self.stages = stages_of(shape)
        self.stride = 2 ** (self.stages - 1)  # pixels of the picture to a cell of the coarsest stage
        # Sides become multiples of it: pixels to be added [before, after], alike at both ends.
        self._borders = [[-side % self.stride // 2, (1 + -side % self.stride) // 2] for side in self.shape[:2]]
        self.images = tf.placeholder(tf.uint8, (None,) + self.shape, 'images')
        self.mask = tf.placeholder(tf.uint8, self.shape[:2] + (1,), 'mask')
        self._averages = {}
        if devices:
            self._train(devices)
        self.restored = self._restored()
        self.generator_variables, self.discriminator_variables = [tf.trainable_variables(player) for player in PLAYERS]

    def _train(self, devices):
        """Build what trains: losses, update, state."""
        self.learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
        self.step = tf.train.get_or_create_global_step()
        self.totals, self.seconds = [tf.get_variable(name, shape, tf.float64, tf.zeros_initializer(), trainable=False)
                                     for name, shape in (('totals', [len(LOSSES) + 1]), ('seconds', []))]
        count, towers = tf.shape(self.images)[0], []
        for number, device in enumerate(devices):
            with tf.device(device):
                first, last = count * number // len(devices), count * (number + 1) // len(devices)
                # Where there are fewer images than devices one computes an image in vain: layers balk at none.
                scale = tf.cast(last > first, tf.float32) / tf.cast(count, tf.float32)
                towers.append(self._tower(self.images[first:tf.maximum(last, first + 1)], scale))
        (losses, gradients), players = zip(*towers), [tf.trainable_variables(player) for player in PLAYERS]
        self.losses, self.parameters = tf.add_n(losses), [sum(x.shape.num_elements() for x in each) for each in players]
        gradients = self._sum(sum(players, []), gradients)
        with tf.control_dependencies(gradients):  # both players' are complete before either's weights change
            moved = self._descend(gradients, sum(players, []))
        with tf.control_dependencies([moved]):
            averaged = self._average(players[0])
            added = tf.assign_add(self.totals, tf.concat([tf.cast(self.losses, tf.float64), [1]], 0) * tf.cast(count, tf.float64))
        with tf.control_dependencies([averaged]):
            self.update = tf.group(added, tf.assign_add(self.step, 1))

    @staticmethod
    def _sum(variables, gradients):
        """The towers' gradients, summed where the variable lives."""
        total = []
        for variable, parts in zip(variables, zip(*gradients)):
            with tf.device(variable.device):
                total.append(tf.add_n(parts))
        return total

    def _tower(self, images, scale):
        """Both players on one device's share of a batch: (LOSSES, gradients of the generator's and then the discriminator's loss).

        All are sums over the share times `scale`, 1 / batch: those of the towers add up to the batch's means.
        """
        total = lambda x: scale * tf.reduce_sum(x)
        mean = lambda scales: total(tf.stack([tf.reduce_mean(tf.cast(x, tf.float32), [1, 2, 3]) for x in scales]) / len(scales))
        whole, smooth, hole, window = self._prepare(images)
        fill = self._generator(smooth, hole, window, self._precision)
        real, hole = [crop(x, window) for x in (whole, hole)]
        variables = tf.trainable_variables('generator')
        difference = (fill - real) * hole
        loss_rec = total(difference ** 2)
        if not self._weight:
            return tf.stack([loss_rec] + [tf.zeros([])] * 4), tf.gradients(loss_rec, variables)
        logits_real, logits_fake = zip(*[tf.split(logits, 2) for logits in self._discriminator(
            tf.concat([real, real + difference], 0), hole)])
        loss_adv = mean([tf.nn.softplus(-logits) for logits in logits_fake])  # non-saturating, Goodfellow et al. 2014
        loss_dis = mean([tf.nn.softplus(-logits) for logits in logits_real]) + mean([tf.nn.softplus(x) for x in logits_fake])
        loss_generator = loss_rec + self._weight * ADVERSARY * self.shape[2] * tf.reduce_sum(hole) * loss_adv
        right = [mean([x > 0 for x in logits_real]), mean([x < 0 for x in logits_fake])]
        return tf.stack([loss_rec, loss_adv, loss_dis] + right), tf.gradients(loss_generator, variables) + tf.gradients(
            loss_dis, tf.trainable_variables('discriminator'))

    def _prepare(self, images):
        """uint8 images as whole pictures and smoothly filled ones, [N,H',W',C] in [0, 1], hole, [1,H',W',1], and window.

        The poolings need sides that are multiples of the stride: the reflected border is cut off again at the end.
        """
        real = tf.pad(tf.cast(images, tf.float32) / 255., [[0, 0]] + self._borders + [[0, 0]], 'SYMMETRIC')
        hole = tf.pad(tf.cast(self.mask, tf.float32), self._borders + [[0, 0]])
        return (real, smooth_fill(real, hole[None], self.stages - 1), hole[None],
                window_around(hole, self.stride // 2 ** WINDOW_STAGE))

    def _generator(self, smooth, hole, window, precision=tf.float32, getter=None):
        """What the generator paints in the window, [N,h,w,C] float32, about [0, 1]: the smooth fill and what it adds.

        smooth: whole pictures, smoothly filled; hole: [1,H,W,1]; getter: custom_getter of the variables.
        """
        with tf.variable_scope('generator', reuse=tf.AUTO_REUSE, custom_getter=getter, dtype=precision):
            features = encoder(smooth, hole, self.stages)
            x = tf.cast(features[0], tf.float32) + channel_wise(features[0], 'channel_wise')
            return crop(smooth, window) + decoder(x, features, window, self.shape[2])

    def _discriminator(self, windows, hole):
        """Two lists of logits, see `judge`, of windows, [N,h,w,C] in [0, 1]: by patches of them, and of them halved.

        One sees texture, the other a whole mouth (pix2pixHD, Wang et al. 2018, https://arxiv.org/abs/1711.11585).
        """
        with tf.variable_scope('discriminator', reuse=tf.AUTO_REUSE, dtype=self._precision):
            with tf.variable_scope('whole'):
                fine = judge(windows, hole, self.stages - 2)
            with tf.variable_scope('half'):
                return [fine, judge(pool(windows, tf.nn.avg_pool), pool(hole, tf.nn.avg_pool), self.stages - 1)]

    def _descend(self, gradients, variables):
        """The operation that moves both players' weights: kernels of convolutions by Muon, all else by Adam.

        Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): a kernel moves by its gradients' momentum, made
        orthogonal. Rare directions count as much as common ones, and fewer steps teach as much.
        """
        pairs = list(zip(gradients, variables))
        gradients, kernels = zip(*[each for each in pairs if len(each[1].shape) == 4])
        with tf.device(kernels[0].device):  # as one vector: few large operations, not many small ones
            gradient = tf.concat([tf.reshape(each, [-1]) for each in gradients], 0)
            momentum = tf.get_variable('momentum', gradient.shape, tf.float32, tf.zeros_initializer(), trainable=False)
            ahead = gradient + .95 * tf.assign(momentum, gradient + .95 * momentum)  # Nesterov's
            steps = orthogonal([tf.reshape(part, [-1, kernel.shape[-1]]) for part, kernel in zip(
                tf.split(ahead, [kernel.shape.num_elements() for kernel in kernels]), kernels)])
        moved = [tf.assign_sub(kernel, self.learning_rate * tf.reshape(step, kernel.shape)) for step, kernel in zip(steps, kernels)]
        return tf.group(*moved, tf.train.AdamOptimizer(self.learning_rate, name='adam').apply_gradients(
            [each for each in pairs if len(each[1].shape) < 4]))

    def _average(self, variables):
        """The operation that moves averages, which begin as equal, towards variables; sooner built than TensorFlow's own."""
        done, ways = tf.cast(self.step, tf.float32), []
        for variable in variables:
            with tf.device(variable.device):
                average = self._averages[variable.op.name] = tf.get_variable(
                    variable.op.name + '/ExponentialMovingAverage', initializer=variable.initial_value, trainable=False)
                ways.append((average - variable.read_value(), average))
        decay = tf.minimum(self.average_decay, (1 + done) / (10 + done))
        return tf.train.GradientDescentOptimizer(1 - decay).apply_gradients(ways)

    def _restored(self):
        """The averaged generator's restoration, `restored`; by the weights themselves where nothing is trained."""
        whole, smooth, hole, window = self._prepare(self.images)
        averaged = lambda variable: self._averages.get(variable.op.name, variable)
        fill = self._generator(smooth, hole, window, getter=lambda getter, *args, **kwargs: averaged(getter(*args, **kwargs)))
        difference, origin = (tf.clip_by_value(fill, 0, 1) - crop(whole, window)) * crop(hole, window), window[0]
        whole += tf.pad(difference, tf.stack([origin, tf.shape(whole) - origin - tf.shape(difference)], 1))
        (top, _), (left, _) = self._borders
        # Clipped since a rounding error may have left [0, 1].
        return tf.clip_by_value(whole[:, top:top + self.shape[0], left:left + self.shape[1]], 0, 1)
