"""The context encoder and its adversary as one static TensorFlow graph.

Context Encoders: Feature Learning by Inpainting, Pathak et al., CVPR 2016, https://arxiv.org/abs/1604.07379.

Everything is NHWC; images are in [0, 1] inside the graph; mask = 1 in the hole. The data flow:

    images, mask --> smooth_fill --> encoder --> channel-wise layer --> decoder --> difference
                         |                                                             |
                         +-------------------------- add ------------------------------+--> fill of the window
                                                                                             |        |
                                                                    reconstruction loss <----+        +--> discriminator

The decoder paints, and the discriminator judges, only the *window*: the part of the picture around the hole.
Written against `tensorflow.compat.v1`, so that the same file runs on TensorFlow 1.14 and on 2.x.
"""
import numpy as np
import tensorflow.compat.v1 as tf

WIDTHS = (16, 32, 64, 128, 128, 256)  # channels of the six stages, from the finest to the coarsest; even, see pair()
STRIDE = 2 ** (len(WIDTHS) - 1)       # pixels of the picture to a cell of the coarsest stage
WINDOW_STAGE = 3                      # the decoder cuts out the window at this stage: its sides and origin are
CELL = 2 ** WINDOW_STAGE              # multiples of this many pixels
SHORTCUTS = (1, 2, 3, 4)              # stages whose features the decoder sees, too

SMALL = .2                            # gain of weights whose result is added to something, see residual(); else 2
ADVERSARY = 1.6e-3                    # weight of the adversarial loss per hidden value, since the reconstruction loss is
                                      # a sum over them: 8.5 for the 42x42x3 of a 128x128 photo
AVERAGE_DECAY = .998                  # a step, of the generator's averaged weights (Polyak & Juditsky 1992)

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
    return tf.nn.bias_add(x, both(half, half, 0))


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
    with tf.get_default_graph().gradient_override_map({'Conv2D': 'ForwardConvolution'}):
        return tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding=padding)


@tf.RegisterGradient('ForwardConvolution')
def _convolve_gradients(op, dy):
    """The gradients of `convolve`. That of its input is a forward convolution, too, with the flipped kernel.

    On TensorFlow 1.14's CPU kernels this takes half the time of `Conv2DBackpropInput`.
    """
    (x, kernel), padding = op.inputs, op.get_attr('padding').decode()
    side = int(kernel.shape[0])
    flipped = tf.transpose(reverse(kernel, [1, side ** 2, -1]), [0, 1, 3, 2])
    around = tf.pad(dy, [[0, 0], [side - 1] * 2, [side - 1] * 2, [0, 0]]) if padding == 'VALID' else dy
    return convolve(around, flipped, padding), tf.nn.conv2d_backprop_filter(
        x, tf.shape(kernel), dy, strides=[1, 1, 1, 1], padding=padding)


def conv(x, width, name, gain=2., activation=tf.nn.elu, side=3, paired=True):
    """Convolution of x, [N,H,W,C], by side x side cells, to [N,H,W,width]. paired: whether x comes in pairs."""
    channels = int(x.shape[-1])
    with tf.variable_scope(name):
        kernel = weight('kernel', [side, side, channels, width // 2], side ** 2 * channels, gain)
        return activation(bias(convolve(x, pair(kernel, paired))))


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
        kernel = pair(weight('kernel', [4, 4, channels, width // 2], 4 * channels))
        if tf.__version__ < '2':  # every other row and column of the kernel makes one of the four pixels
            parts = tf.transpose(tf.reshape(kernel, [2, 2, 2, 2, channels, width]), [0, 2, 4, 1, 3, 5])
            parts = tf.reshape(reverse(parts, [1, 4, -1]), [2, 2, channels, 4 * width])
            y = tf.depth_to_space(convolve(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), parts, 'VALID'), 2)[:, 1:-1, 1:-1]
        else:
            shape = tf.concat([tf.shape(x)[:3] * [1, 2, 2], [width]], 0)
            y = tf.nn.conv2d_transpose(x, tf.transpose(kernel, [0, 1, 3, 2]), shape, strides=2)
        return tf.nn.elu(bias(y))


def channel_wise(x, name):
    """The paper's channel-wise fully connected layer: in each channel every cell sees every other, channels do not mix.

    x: [N,h,w,C]; returns the same shape. One batched matrix product, [C,N,hw] x [C,hw,hw].
    """
    _, height, breadth, channels = x.shape.as_list()
    cells = height * breadth
    with tf.variable_scope(name):
        half = weight('kernel', [channels // 2, cells, cells], cells, SMALL)
        other = tf.reverse(tf.reshape(half, [-1, height, breadth, height, breadth]), [2, 4])
        kernel = both(half, tf.reshape(other, [-1, cells, cells]), 0)
        half = tf.get_variable('bias', [height, breadth, channels // 2], tf.float32, tf.zeros_initializer())
        each = both(half, tf.reverse(half, [1]), 2)
        flat = tf.transpose(tf.reshape(x, [-1, cells, channels]), [2, 0, 1])
        mixed = tf.transpose(tf.matmul(flat, kernel), [1, 2, 0])
        return tf.nn.elu(tf.reshape(mixed, [-1, height, breadth, channels]) + each)


def encoder(x, hole, deep=True):
    """Six stages, pooled between: the features at each, [N,H/2^s,W/2^s,WIDTHS[s]].

    x: pictures, [N,H,W,C] in [0, 1]; hole: [1,H,W,1]; deep: a second convolution in each stage but the finest.
    """
    x, stages = tf.concat([2 * x - 1, tf.tile(hole, tf.stack([tf.shape(x)[0], 1, 1, 1]))], 3), []
    for stage, width in enumerate(WIDTHS):
        if stage:
            x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')
        x = conv(x, width, 'encode%d_1' % stage, paired=stage > 0)
        x = residual(x, 'encode%d_2' % stage) if deep and stage else x
        stages.append(x)
    return stages


def decoder(x, stages, window, channels):
    """The encoder's mirror image: x, [N,H/32,W/32,256], to the picture's window, [N,h,w,channels].

    The encoder's features of SHORTCUTS, convolved, are added to the decoder's (U-Net, Ronneberger et al. 2015,
    https://arxiv.org/abs/1505.04597). window: see window_around(); it is cut out at WINDOW_STAGE: what lies farther
    from the hole is known and need not be painted.
    """
    x = conv(x, WIDTHS[-1], 'decode5_1')
    x = residual(x, 'decode5_2')
    for stage in reversed(range(len(WIDTHS) - 1)):
        x = up(x, WIDTHS[stage], 'up%d' % stage)
        if stage in SHORTCUTS:
            seen = stages[stage] if stage >= WINDOW_STAGE else crop(stages[stage], window // 2 ** stage)
            x += conv(seen, WIDTHS[stage], 'shortcut%d' % stage, SMALL, tf.identity, side=1)
        x = residual(x, 'decode%d' % stage)
        if stage == WINDOW_STAGE:
            x = crop(x, window // CELL)
    return fold(conv(x, 2 * channels, 'paint', .01, tf.identity))  # small at first: painting starts at the smooth fill


def crop(x, window):
    """The part of x, [N,H,W,C], in `window`, see window_around: [N,h,w,C]."""
    y = tf.slice(x, *tf.unstack(window))
    y.set_shape([None, None, None, x.shape[-1]])
    return y


def paste(x, window, whole):
    """Zeros in the shape of `whole`, [N,H,W,C], and x, [N,h,w,C], in their `window`: what `crop` cuts out, put back."""
    origin = window[0]
    y = tf.pad(x, tf.stack([origin, tf.shape(whole) - origin - tf.shape(x)], 1))
    y.set_shape(whole.shape)
    return y


def smooth_fill(x, mask, sweeps=4):
    """Fill the hole smoothly from its rim: an approximately harmonic function, for any mask.

    Pull-push (Gortler et al. 1996, "The Lumigraph"): average the visible pixels down to one, then go up again, at
    each scale filling what is not seen with the next coarser scale and smoothing it with `sweeps` 3x3 box filters.
    x: [N,H,W,C], mask: [1,H,W,1], H and W multiples of STRIDE; returns x with the hole filled.
    """
    _, height, width, channels = x.shape.as_list()
    # All pictures as the channels of one: TensorFlow's CPU kernels pool three channels as slowly as dozens.
    x = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [1, height, width, -1])
    pyramid = [(x * (1 - mask), 1 - mask)]  # (colour times visible share, visible share), finest first
    for _ in range(len(WIDTHS) - 1):
        pyramid.append([tf.nn.avg_pool(t, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME') for t in pyramid[-1]])
    colour, share = [tf.reduce_mean(t, [1, 2], keepdims=True) for t in pyramid[-1]]
    fill = colour / tf.maximum(share, 1e-6)
    for colour, share in reversed(pyramid):
        hole = tf.cast(share <= 0, tf.float32)
        visible = colour / tf.maximum(share, 1e-6)
        fill = visible + hole * tf.image.resize_bilinear(fill, colour.shape[1:3], half_pixel_centers=True)
        for _ in range(sweeps):
            fill = visible + hole * tf.nn.avg_pool(fill, [1, 3, 3, 1], [1, 1, 1, 1], 'SAME')
    return tf.transpose(tf.reshape(fill, [height, width, -1, channels]), [2, 0, 1, 3])


def detail_loss(real, fake, side=4, tiny=1e-4):
    """How far contrast and structure, parts of SSIM, differ in each box of side x side pixels: [N,h-side+1,w-side+1,C].

    Of what is unsure the network paints a mean, which is blurred: it has too little contrast (standard deviation), wherever
    in the box an edge should be. Structure (correlation) asks for its place, and counts as much as there is true contrast
    (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861). real, fake: [N,h,w,C]; tiny: a root is steep at 0.
    """
    mean = lambda x: tf.nn.avg_pool(x, [1, side, side, 1], [1, 1, 1, 1], 'VALID')
    covariance = lambda x, y: mean(x * y) - mean(x) * mean(y)
    true, painted = [tf.sqrt(tf.maximum(covariance(x, x), 0) + tiny) for x in (real, fake)]
    return tf.abs(true - painted) + true - (covariance(real, fake) + tiny) / painted


def orthogonal(kernel, sweeps=3):
    """A kernel, [k,k,I,O] with O <= k * k * I, as a matrix whose O columns are made roughly orthonormal, times a factor.

    By Newton-Schulz iteration with the polynomial of Jordan et al. 2024, see ContextEncoder._descend. The factor makes
    a step's elements about .2, as Adam's are (Liu et al. 2025, https://arxiv.org/abs/2502.16982): one rate fits both.
    """
    *rows, columns = kernel.shape.as_list()
    x = tf.nn.l2_normalize(tf.reshape(kernel, [-1, columns]), [0, 1])
    first, second = [tf.constant(factor * np.eye(columns), tf.float32) for factor in (3.4445, -4.7750)]
    for _ in range(sweeps):
        square = tf.matmul(x, x, transpose_a=True)
        x = tf.matmul(x, first + tf.matmul(square, second + 2.0315 * square))
    return tf.reshape(.2 * np.sqrt(np.prod(rows)) * x, kernel.shape)


# --------------------------------------------------------------------------------------------------- network

def border(side):
    """[before, after]: pixels to be added to a side of a picture for a multiple of STRIDE, alike at both ends."""
    missing = -side % STRIDE
    return [missing // 2, missing - missing // 2]


def window_around(mask):
    """The window around the hole of mask, [H,W,1], as tf.slice asks: its origin, (0, top, left, 0), and its size,
    (-1, height, width, -1), in [2,4] int32; sides and origin are multiples of CELL.

    H, W: multiples of STRIDE. Divided by a stage's cell it is the window of that stage: -1, all, stays -1.
    """
    def side(axis):
        hidden = tf.cast(tf.reduce_any(mask > 0, [1 - axis, 2]), tf.int32)
        first = tf.argmax(hidden, output_type=tf.int32) // CELL * CELL
        last = int(mask.shape[axis]) - tf.argmax(tf.reverse(hidden, [0]), output_type=tf.int32)
        return first, -(-last // CELL) * CELL - first
    return tf.stack([(0, -1), side(0), side(1), (0, -1)], 1)


class ContextEncoder:
    """Generator, discriminator, losses and restoration for pictures of `shape` (H, W, C), with holes of any size.

    shape:      H, W >= STRIDE, for a coarsest stage of at least one cell; C 1 or 3.
    adv_weight: of the adversarial loss in the generator's, times ADVERSARY for each hidden value; 0: no discriminator.
    devices:    names or device functions, see tf.device; each trains on its share of every batch, and their gradients
                are summed before either player's weights change: the gradients of the whole batch on one device.
    Builds into the current default graph. Raises ValueError for a picture that is too small.

    Feed:
        images         [N,H,W,C] uint8
        mask           [H,W,1] uint8, 1 in the hole
        learning_rate  [] float32, of both players
    Fetch:
        update         one step of both players
        losses         [5] float32, the batch's LOSSES: squared error (reported; the generator lowers the absolute one),
                       adversarial and discriminator loss, shares of real and restored patches judged rightly
        restored       [N,H,W,C] float32 in [0, 1], by the averaged generator; the input outside the hole
    State, saved with the weights: step [] int64; totals [6] float64, the epoch's sums of losses * N and of N;
        seconds [] float64, trained so far. parameters: numbers of weights of generator and discriminator, not saved.
    """

    def __init__(self, shape, adv_weight=1., devices=(None,)):
        if min(shape[:2]) < STRIDE:
            raise ValueError('pictures of %dx%d are too small: %d pixels a side at least' % (
                shape[0], shape[1], STRIDE))
        self.shape = tuple(int(side) for side in shape)
        self.images = tf.placeholder(tf.uint8, (None,) + self.shape, 'images')
        self.mask = tf.placeholder(tf.uint8, self.shape[:2] + (1,), 'mask')
        self.learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
        self.step = tf.train.get_or_create_global_step()
        count, towers = tf.shape(self.images)[0], []
        for number, device in enumerate(devices):
            with tf.device(device):
                first, last = count * number // len(devices), count * (number + 1) // len(devices)
                # Where there are fewer images than devices one computes an image in vain: layers balk at none.
                scale = tf.cast(last > first, tf.float32) / tf.cast(count, tf.float32)
                towers.append(self._tower(self.images[first:tf.maximum(last, first + 1)], scale, adv_weight))
        self.generator_variables = tf.trainable_variables('generator')
        self.discriminator_variables = tf.trainable_variables('discriminator')
        losses, *gradients = zip(*towers)
        self.losses = tf.add_n(losses)
        players = self.generator_variables, self.discriminator_variables
        self.parameters = [sum(variable.shape.num_elements() for variable in variables) for variables in players]
        self.update = self._updates(*[self._sum(*parts) for parts in zip(players, gradients)])
        self.restored = self._restored()

    @staticmethod
    def _sum(variables, gradients):
        """The towers' gradients, summed where the variable lives."""
        total = []
        for variable, parts in zip(variables, zip(*gradients)):
            with tf.device(variable.device):
                total.append(tf.add_n(parts))
        return total

    def _tower(self, images, scale, adv_weight):
        """Both players on one device's share of a batch: (LOSSES, generator's gradients, discriminator's gradients).

        All are sums over the share times `scale`, 1 / batch: those of the towers add up to the batch's means.
        """
        total = lambda x: scale * tf.reduce_sum(x)  # over each picture, the batch's mean
        mean = lambda x: total(tf.reduce_mean(tf.cast(x, tf.float32), [1, 2, 3]))
        whole, smooth, hole, window = self._prepare(images)
        fill = self._generator(smooth, hole, window)
        real, hole = [crop(x, window) for x in (whole, hole)]
        variables = tf.trainable_variables('generator')
        difference = (fill - real) * hole
        fake = real + difference
        loss_rec = total(difference ** 2)
        # Absolute: large errors, unlike anything learnt, pull less than squared, and edges stay crisper (Barron 2019).
        loss_generator = total(tf.abs(difference)) + total(detail_loss(real, fake))
        if not adv_weight:
            return tf.stack([loss_rec] + [tf.zeros([])] * 4), tf.gradients(loss_generator, variables), []
        # Apart, since the generator's gradient needs the restored ones alone.
        logit_real, logit_fake = [self._discriminator(x, hole) for x in (real, fake)]
        loss_adv = mean(tf.nn.softplus(-logit_fake))  # non-saturating, Goodfellow et al. 2014
        loss_dis = mean(tf.nn.softplus(-logit_real)) + mean(tf.nn.softplus(logit_fake))
        loss_generator += adv_weight * ADVERSARY * self.shape[2] * tf.reduce_sum(hole) * loss_adv
        return (tf.stack([loss_rec, loss_adv, loss_dis, mean(logit_real > 0), mean(logit_fake < 0)]),
                tf.gradients(loss_generator, variables),
                tf.gradients(loss_dis, tf.trainable_variables('discriminator')))

    def _prepare(self, images):
        """uint8 images as whole pictures and smoothly filled ones, [N,H',W',C] in [0, 1], hole, [1,H',W',1], and window.

        The five poolings need sides that are multiples of STRIDE: the reflected border is cut off again at the end.
        """
        borders = [border(side) for side in self.shape[:2]]
        real = tf.pad(tf.cast(images, tf.float32) / 255., [[0, 0]] + borders + [[0, 0]], 'SYMMETRIC')
        hole = tf.pad(tf.cast(self.mask, tf.float32), borders + [[0, 0]])
        return real, smooth_fill(real, hole[None]), hole[None], window_around(hole)

    def _generator(self, smooth, hole, window, getter=None):
        """What the generator paints in the window, [N,h,w,C] float32, about [0, 1]: the smooth fill and what it adds.

        smooth: whole pictures, smoothly filled; hole: [1,H,W,1]; getter: custom_getter of the variables.
        """
        with tf.variable_scope('generator', reuse=tf.AUTO_REUSE, custom_getter=getter):
            stages = encoder(smooth, hole)
            x = stages[-1] + channel_wise(stages[-1], 'channel_wise')
            return crop(smooth, window) + decoder(x, stages, window, self.shape[2])

    def _discriminator(self, windows, hole):
        """Logits, [N,h/32,w/32,1], sides rounded up, that each patch of windows, [N,h,w,C] in [0, 1], is real.

        Each patch is judged (PatchGAN, Isola et al. 2017, https://arxiv.org/abs/1611.07004): where a window had one
        verdict, a few strong dots made up for texture that was missing everywhere else.
        """
        with tf.variable_scope('discriminator', reuse=tf.AUTO_REUSE):
            return fold(conv(encoder(windows, hole, deep=False)[-1], 2, 'judge', 1., tf.identity, side=1))

    def _updates(self, generator_gradients, discriminator_gradients):
        """The operation that applies both players' gradients, averages the weights and adds to the totals."""
        state = dict(dtype=tf.float64, initializer=tf.zeros_initializer(), trainable=False)
        self.totals = tf.get_variable('totals', [len(LOSSES) + 1], **state)
        self.seconds = tf.get_variable('seconds', [], **state)
        count = tf.cast(tf.shape(self.images)[0], tf.float64)
        players = [('generator_adam', generator_gradients, self.generator_variables),
                   ('discriminator_adam', discriminator_gradients, self.discriminator_variables)]
        # Both players' gradients are complete before either's weights change.
        with tf.control_dependencies(generator_gradients + discriminator_gradients):
            applied = [self._descend(name, gradients, variables) for name, gradients, variables in players if gradients]
        with tf.control_dependencies(applied):
            averaged = self._average()
            added = tf.assign_add(self.totals, tf.concat([tf.cast(self.losses, tf.float64), [1]], 0) * count)
        with tf.control_dependencies(averaged):
            return tf.group(added, tf.assign_add(self.step, 1))

    def _descend(self, name, gradients, variables):
        """The operation that moves a player's weights: kernels of convolutions by Muon, all else by Adam, named `name`.

        Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): a kernel moves by its gradients' momentum, made
        orthogonal. Rare directions count as much as common ones, and fewer steps teach as much.
        """
        pairs, moved = list(zip(gradients, variables)), []
        for gradient, kernel in [pair for pair in pairs if len(pair[1].shape) == 4]:
            with tf.device(kernel.device):
                momentum = tf.get_variable(kernel.op.name + '/momentum', kernel.shape, tf.float32, tf.zeros_initializer(),
                                           trainable=False)
                ahead = gradient + .95 * tf.assign(momentum, gradient + .95 * momentum)  # Nesterov's
                moved.append(tf.assign_sub(kernel, self.learning_rate * orthogonal(ahead)))
        return tf.group(*moved, tf.train.AdamOptimizer(self.learning_rate, name=name).apply_gradients(
            [pair for pair in pairs if len(pair[1].shape) < 4]))

    def _average(self):
        """Operations that follow the generator's weights with averages, which begin as equal."""
        # By hand, since tf.train.ExponentialMovingAverage takes half a second longer to build.
        done, self._averages, updates = tf.cast(self.step, tf.float32), {}, []
        decay = tf.minimum(AVERAGE_DECAY, (1 + done) / (10 + done))
        for variable in self.generator_variables:
            with tf.device(variable.device):
                average = self._averages[variable.op.name] = tf.get_variable(
                    variable.op.name + '/ExponentialMovingAverage', initializer=variable.initial_value, trainable=False)
                updates.append(tf.assign_sub(average, (1 - decay) * (average - variable.read_value())))
        return updates

    def _restored(self):
        """The averaged generator's restoration: `restored`."""
        whole, smooth, hole, window = self._prepare(self.images)
        averaged = lambda getter, *args, **kwargs: self._averages[getter(*args, **kwargs).op.name]
        fill = tf.clip_by_value(self._generator(smooth, hole, window, averaged), 0, 1)
        difference = paste((fill - crop(whole, window)) * crop(hole, window), window, whole)
        top, left = [border(side)[0] for side in self.shape[:2]]
        height, width, _ = self.shape
        # Clipped since a rounding error may have left [0, 1].
        return tf.clip_by_value((whole + difference)[:, top:top + height, left:left + width], 0, 1)
