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

WIDTHS = (16, 32, 64, 128, 128, 256)  # channels of the six stages, from the finest to the coarsest
STRIDE = 2 ** (len(WIDTHS) - 1)       # pixels of the picture to a cell of the coarsest stage
WINDOW_STAGE = 3                      # the decoder cuts out the window at this stage: its origin is a multiple of
CELL = 2 ** WINDOW_STAGE              # this many pixels
MARGIN = 1 / 12.                      # surroundings in the window on each side of the hole, as a share of the picture
SMALLEST_SIDE = STRIDE                # of a picture, for a coarsest stage of at least one cell

GENERATOR_GAIN = 2.                   # of the weights' scale, see weight()
RESIDUAL = .1                         # of that gain, where a layer's result is added to its input, see residual()
DISCRIMINATOR_GAIN = 1.               # smaller, and slower: else the discriminator wins, or rests at chance
DISCRIMINATOR_RATE = .2               # of the generator's learning rate (two time-scales, Heusel et al. 2017,
                                      # https://arxiv.org/abs/1706.08500)
DISCRIMINATOR_BETA1 = .5              # of its Adam: less momentum for a moving target (DCGAN, Radford et al. 2016)
ADVERSARY = 7.56e-4                   # weight of the adversarial loss per hidden value, since the squared error is a
                                      # sum over them: 4 for the 42x42x3 of a 128x128 photo
FINE = 5                              # pixels: what the adversary may change is what is left when so much is blurred
AVERAGE_DECAY = .998                  # a step, of the generator's averaged weights (Polyak & Juditsky 1992)
BLENDED = .5                          # share of the training faces that are blended with another, see augment()
COLOUR = .5                           # by how much their colours are made stronger or weaker, at most
SHARPEN = .35                         # of its difference to a neighbour is added to a restored pixel, see sharpen(),
LIMIT = .03                           # less and less as the difference grows past this
SSIM_SIDE = 11                        # pixels of the filter that SSIM looks through (Wang et al. 2004)

LOSSES = ('loss_rec', 'loss_adv', 'loss_dis', 'acc_real', 'acc_fake')
METRICS = ('error', 'psnr', 'ssim')


# ---------------------------------------------------------------------------------------------------- layers

def weight(name, shape, fan_in, gain):
    """A float32 variable of `shape`, normal with standard deviation sqrt(gain / fan_in).

    gain 2 keeps a signal alive through many rectified layers (He et al. 2015, https://arxiv.org/abs/1502.01852).
    """
    return tf.get_variable(name, shape, tf.float32, tf.random_normal_initializer(stddev=np.sqrt(gain / fan_in)))


def bias(x):
    """Add a learned bias, zero at first, to each channel of x, [..., C]."""
    return tf.nn.bias_add(x, tf.get_variable('bias', [x.shape[-1]], tf.float32, tf.zeros_initializer()))


def convolve(x, kernel):
    """Stride-1 SAME convolution of x, [N,H,W,I], with an odd-sided kernel, [k,k,I,O]: [N,H,W,O]."""
    with tf.get_default_graph().gradient_override_map({'Conv2D': 'ForwardConvolution'}):
        return tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding='SAME')


@tf.RegisterGradient('ForwardConvolution')
def _convolve_gradients(op, dy):
    """The gradients of `convolve`. That of its input is a forward convolution, too, with the flipped kernel.

    On TensorFlow 1.14's CPU kernels this takes half the time of `Conv2DBackpropInput`.
    """
    x, kernel = op.inputs
    return convolve(dy, tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])), tf.nn.conv2d_backprop_filter(
        x, tf.shape(kernel), dy, strides=[1, 1, 1, 1], padding='SAME')


def conv(x, width, name, gain=2., activation=tf.nn.elu):
    """3x3 convolution of x, [N,H,W,C], to [N,H,W,width]."""
    channels = int(x.shape[-1])
    with tf.variable_scope(name):
        return activation(bias(convolve(x, weight('kernel', [3, 3, channels, width], 9 * channels, gain))))


def residual(x, name, gain=2.):
    """x, [N,H,W,C], and a convolution of it, added (He et al. 2016, https://arxiv.org/abs/1512.03385).

    The convolution is small at first: the deep network begins as a shallow one (Zhang et al. 2019,
    https://arxiv.org/abs/1901.09321).
    """
    return x + conv(x, int(x.shape[-1]), name, RESIDUAL * gain)


def up(x, width, name, gain=2.):
    """Stride-2 transposed 3x3 convolution of x, [N,H,W,C], to [N,2H,2W,width]."""
    _, height, breadth, channels = x.shape.as_list()
    with tf.variable_scope(name):
        # Each output pixel is reached by 9/4 of the kernel's cells on average.
        kernel = weight('kernel', [3, 3, width, channels], 9 / 4. * channels, gain)
        shape = tf.stack([tf.shape(x)[0], 2 * height, 2 * breadth, width])
        return tf.nn.elu(bias(tf.nn.conv2d_transpose(x, kernel, shape, strides=[1, 2, 2, 1], padding='SAME')))


def channel_wise(x, name, gain=2.):
    """The paper's channel-wise fully connected layer: in each channel every cell sees every other, channels do not mix.

    x: [N,h,w,C]; returns the same shape. One batched matrix product, [C,N,hw] x [C,hw,hw].
    """
    _, height, breadth, channels = x.shape.as_list()
    cells = height * breadth
    with tf.variable_scope(name):
        kernel = weight('kernel', [channels, cells, cells], cells, gain)
        flat = tf.transpose(tf.reshape(x, [-1, cells, channels]), [2, 0, 1])
        mixed = tf.transpose(tf.matmul(flat, kernel), [1, 2, 0])
        return tf.nn.elu(bias(tf.reshape(mixed, [-1, height, breadth, channels])))


def encoder(x, gain):
    """Six stages of two convolutions, pooled between: x, [N,H,W,C], to [N,H/32,W/32,256]."""
    for stage, width in enumerate(WIDTHS):
        if stage:
            x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')
        x = conv(x, width, 'encode%d_1' % stage, gain)
        x = residual(x, 'encode%d_2' % stage, gain)
    return x


def decoder(x, origin, cells, channels):
    """The encoder's mirror image: x, [N,H/32,W/32,256], to the picture's window, [N,h,w,channels].

    origin: [2] int32, cells: (h, w), both in cells of WINDOW_STAGE, where the window is cut out: what lies farther
    from the hole is known and need not be painted.
    """
    x = conv(x, WIDTHS[-1], 'decode5_1')
    x = residual(x, 'decode5_2')
    for stage in reversed(range(len(WIDTHS) - 1)):
        x = up(x, WIDTHS[stage], 'up%d' % stage)
        x = residual(x, 'decode%d' % stage)
        if stage == WINDOW_STAGE:
            x = crop(x, origin, cells)
    return conv(x, channels, 'paint', gain=.01, activation=tf.identity)  # small: painting starts at the smooth fill


def crop(x, origin, size):
    """The part of x, [N,H,W,C], that begins at `origin` (int32 tensor, [2]) and has `size` (h, w): [N,h,w,C]."""
    y = tf.slice(x, tf.concat([[0], origin, [0]], 0), [-1, size[0], size[1], -1])
    y.set_shape([None, size[0], size[1], x.shape[-1]])
    return y


def paste(x, origin, size):
    """Zeros, [N,H,W,C] with size (H, W), and x, [N,h,w,C], in them at `origin`: what `crop` cuts out, put back."""
    after = [whole - int(side) for whole, side in zip(size, x.shape[1:3])] - origin
    y = tf.pad(x, tf.concat([[[0, 0]], tf.stack([origin, after], 1), [[0, 0]]], 0))
    y.set_shape([None] + list(size) + [x.shape[-1]])
    return y


def blur(x, side):
    """x, [N,H,W,C], averaged over side x side pixels, twice."""
    for _ in range(2):
        x = tf.nn.avg_pool(x, [1, side, side, 1], [1, 1, 1, 1], 'SAME')
    return x


def sharpen(x):
    """x, [N,H,W,C] in [0, 1], with each pixel pushed away from its four neighbours: one step up the total variation.

    That is the sum of the differences of neighbours, which Rudin, Osher & Fatemi (1992) walk down to take noise away.
    Of all small changes of the same squared size the steepest adds most to it. LIMIT softens it: pixels that hardly
    differ are hardly pushed, or else skin would turn to grain.
    """
    wide = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], 'SYMMETRIC')
    neighbours = wide[:, :-2, 1:-1], wide[:, 2:, 1:-1], wide[:, 1:-1, :-2], wide[:, 1:-1, 2:]
    pushes = tf.add_n([tf.tanh((x - neighbour) / LIMIT) for neighbour in neighbours])
    return tf.clip_by_value(x + SHARPEN * LIMIT * pushes, 0, 1)


def augment(images, step):
    """uint8 images, [N,H,W,C], varied for training, the same way for the same step.

    BLENDED of them are mixed with up to a half of another of the batch (mixup, Zhang et al. 2018,
    https://arxiv.org/abs/1710.09412); all get their colours made stronger or weaker by up to COLOUR.
    """
    def uniform(number):
        return tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], tf.stack([tf.cast(step, tf.int64), number]))
    x = tf.cast(images, tf.float32)
    other = tf.where_v2(uniform(10) < BLENDED, uniform(11) / 2, 0.)
    x += other * (tf.reverse(x, [0]) - x)
    grey = tf.reduce_mean(x, 3, keepdims=True)
    x = grey + (1 + COLOUR * (2 * uniform(12) - 1)) * (x - grey)
    return tf.cast(tf.clip_by_value(x + .5, 0, 255), tf.uint8)


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


def ssim(x, y):
    """Structural similarity, [N], of pictures x and y, [N,H,W,C] in [0, 1] (Wang et al. 2004, by `tf.image`).

    A picture's is the mean over its parts of equal size. They are laid on each other as channels, since TensorFlow's
    CPU kernel filters three channels about as slowly as dozens.
    """
    def parts(side):
        whole = side - SSIM_SIDE + 1  # places of the filter
        number = max(k for k in (1, 2, 3, 4) if whole % k == 0)
        return [slice(i * whole // number, (i + 1) * whole // number + SSIM_SIDE - 1) for i in range(number)]
    rows, columns = [parts(int(side)) for side in x.shape[1:3]]
    x, y = [tf.concat([z[:, row, column] for row in rows for column in columns], 3) for z in (x, y)]
    return tf.image.ssim(x, y, 1., SSIM_SIDE)


# --------------------------------------------------------------------------------------------------- network

def window_size(shape, hole):
    """(h, w) of the window that the networks look at, for holes of at most `hole` (h, w) in pictures of `shape`."""
    def side(picture, hole):
        whole = -(-picture // STRIDE) * STRIDE
        return min(whole, int(-(-(hole + 2 * MARGIN * picture) // CELL)) * CELL)
    return side(shape[0], hole[0]), side(shape[1], hole[1])


def window_origin(mask, size, cell=CELL):
    """[2] int32: top left corner of the window of `size` around the hole of mask, [H,W,1], a multiple of `cell`."""
    def start(axis):
        rows = tf.where(tf.reduce_any(mask > 0, [1 - axis, 2]))
        middle = tf.cond(tf.size(rows) > 0, lambda: tf.reduce_min(rows) + tf.reduce_max(rows) + 1,
                         lambda: tf.constant(0, tf.int64))
        first = tf.cast(tf.round((tf.cast(middle, tf.float32) - size[axis]) / 2 / cell), tf.int32) * cell
        return tf.clip_by_value(first, 0, int(mask.shape[axis]) - size[axis])
    return tf.stack([start(0), start(1)])


class ContextEncoder:
    """Generator, discriminator, losses and metrics for pictures of `shape` (H, W, C) with holes up to `hole` (h, w).

    shape:      H, W >= SMALLEST_SIDE, C 1 or 3.
    hole:       sides in pixels of the largest hole that will be fed.
    adv_weight: of the adversarial loss in the generator's, times ADVERSARY for each hidden value; 0: no discriminator.
    devices:    names or device functions, see tf.device; each trains on its share of every batch, and their gradients
                are summed before either player's weights change: the gradients of the whole batch on one device.
    Builds into the current default graph. Raises ValueError for a picture that is too small.

    Feed:
        images         [N,H,W,C] uint8
        mask           [H,W,1] uint8, 1 in the hole
        learning_rate  [] float32, the generator's
    Fetch:
        update         one step of both players
        losses         [5] float32, the batch's LOSSES: reconstruction, adversarial and discriminator loss, shares of
                       real and of restored windows that the discriminator judged rightly
        restored       [N,H,W,C] float32 in [0, 1], by the averaged generator; the input outside the hole
        metrics        [N,3] float32, METRICS of `restored`: summed squared error over the hole, PSNR over the hole
                       in dB, SSIM of the picture
    State, saved with the weights: step [] int64; totals [6] float64, the epoch's sums of losses * N and of N;
        seconds [] float64, trained so far.
    """

    def __init__(self, shape, hole, adv_weight=1., devices=(None,)):
        if min(shape[:2]) < SMALLEST_SIDE:
            raise ValueError('pictures of %dx%d are too small: %d pixels a side at least' % (
                shape[0], shape[1], SMALLEST_SIDE))
        self.shape = tuple(int(side) for side in shape)
        self.hole = tuple(int(side) for side in hole)
        self.window = window_size(self.shape, self.hole)
        self.images = tf.placeholder(tf.uint8, (None,) + self.shape, 'images')
        self.mask = tf.placeholder(tf.uint8, self.shape[:2] + (1,), 'mask')
        self.learning_rate = tf.placeholder(tf.float32, [], 'learning_rate')
        self.step = tf.train.get_or_create_global_step()
        self.varied = augment(self.images, self.step)
        count, towers = tf.shape(self.varied)[0], []
        for number, device in enumerate(devices):
            with tf.device(device):
                first, last = count * number // len(devices), count * (number + 1) // len(devices)
                # Where there are fewer images than devices one computes an image in vain: layers balk at none.
                scale = tf.cast(last > first, tf.float32) / tf.cast(count, tf.float32)
                towers.append(self._tower(self.varied[first:tf.maximum(last, first + 1)], scale, adv_weight))
        self.generator_variables = tf.trainable_variables('generator')
        self.discriminator_variables = tf.trainable_variables('discriminator')
        losses, *gradients = zip(*towers)
        self.losses = tf.add_n(losses)
        self.update = self._updates(*[self._sum(parts) for parts in zip(
            (self.generator_variables, self.discriminator_variables), gradients)])
        self._evaluation()

    @staticmethod
    def _sum(variables_and_gradients):
        """The towers' gradients, summed where the variable lives."""
        variables, gradients = variables_and_gradients
        total = []
        for variable, parts in zip(variables, zip(*gradients)):
            with tf.device(variable.device):
                total.append(tf.add_n(parts))
        return total

    def _prepare(self, images, mask):
        """uint8 images and mask as whole pictures, smoothly filled ones, [N,H',W',C] in [0, 1], and hole, [1,H',W',1].

        The five poolings need sides that are multiples of STRIDE: the mirrored border is cut off again at the end.
        """
        border = [[0, -side % STRIDE] for side in self.shape[:2]]
        real = tf.pad(tf.cast(images, tf.float32) / 255., [[0, 0]] + border + [[0, 0]], 'SYMMETRIC')
        hole = tf.pad(tf.cast(mask, tf.float32), border + [[0, 0]])[None]
        return real, smooth_fill(real, hole), hole

    def _tower(self, images, scale, adv_weight):
        """Both players on one device's share of a batch: (LOSSES, generator's gradients, discriminator's gradients).

        All are sums over the share times `scale`, 1 / batch: those of the towers add up to the batch's means.
        """
        mean = lambda x: scale * tf.reduce_sum(tf.cast(x, tf.float32))
        whole, smooth, hole = self._prepare(images, self.mask)
        origin = window_origin(hole[0], self.window)
        fill = self._generator(smooth, hole, origin)
        real, hole = [crop(x, origin, self.window) for x in (whole, hole)]
        variables = tf.trainable_variables('generator')
        difference = (fill - real) * hole
        loss_rec = mean(difference ** 2)
        if not adv_weight:
            return tf.stack([loss_rec] + [tf.zeros([])] * 4), tf.gradients(loss_rec, variables), []
        fake = tf.stop_gradient(real + difference)  # cut: the discriminator's backward pass ends here, see push
        logit_real, logit_fake = tf.split(self._discriminator(tf.concat([real, fake], 0)), 2)
        loss_adv = mean(tf.nn.softplus(-logit_fake))  # non-saturating, Goodfellow et al. 2014
        loss_dis = mean(tf.nn.softplus(-logit_real)) + mean(tf.nn.softplus(logit_fake))
        # One backward pass through the fakes serves both players: per picture, the slope of the generator's
        # softplus(-l) is -exp(-l) times the slope of the discriminator's softplus(l).
        *discriminator_gradients, slope = tf.gradients(loss_dis, tf.trainable_variables('discriminator') + [fake])
        push = -tf.exp(-tf.clip_by_value(logit_fake, -60., 60.))[:, :, None, None] * slope
        # The adversary rules only what is fine, where a likely guess costs little squared error: each scale has a
        # teacher of its own in LAPGAN (Denton et al. 2015, https://arxiv.org/abs/1506.05751).
        strength = adv_weight * ADVERSARY * self.shape[2] * tf.reduce_sum(hole)
        self.push = strength * (push - blur(push, FINE))
        generator_gradients = tf.gradients([loss_rec, difference], variables, [tf.ones([]), self.push])
        return (tf.stack([loss_rec, loss_adv, loss_dis, mean(logit_real > 0), mean(logit_fake < 0)]),
                generator_gradients, discriminator_gradients)

    def _generator(self, smooth, hole, origin, getter=None):
        """What the generator paints in the window at `origin`, [N,h,w,C] float32, about [0, 1].

        It is the smooth fill plus what the network adds. smooth: whole pictures, smoothly filled; hole: [1,H,W,1];
        getter: custom_getter of the variables.
        """
        with tf.variable_scope('generator', reuse=tf.AUTO_REUSE, custom_getter=getter):
            mask = tf.tile(hole, tf.stack([tf.shape(smooth)[0], 1, 1, 1]))
            x = encoder(tf.concat([2 * smooth - 1, mask], 3), GENERATOR_GAIN)
            x += channel_wise(x, 'channel_wise', RESIDUAL * GENERATOR_GAIN)
            difference = decoder(x, origin // CELL, [side // CELL for side in self.window], self.shape[2])
        return crop(smooth, origin, self.window) + difference

    def _discriminator(self, windows):
        """Logits [N,1] that windows, [N,h,w,C] in [0, 1], are real."""
        with tf.variable_scope('discriminator', reuse=tf.AUTO_REUSE):
            x = encoder(2 * windows - 1, DISCRIMINATOR_GAIN)
            size = int(np.prod(x.shape.as_list()[1:]))
            return bias(tf.matmul(tf.reshape(x, [-1, size]), weight('kernel', [size, 1], size, 1.)))

    def _updates(self, generator_gradients, discriminator_gradients):
        """The operation that applies both players' gradients, averages the weights and adds to the totals."""
        state = dict(dtype=tf.float64, initializer=tf.zeros_initializer(), trainable=False)
        self.totals = tf.get_variable('totals', [len(LOSSES) + 1], **state)
        self.seconds = tf.get_variable('seconds', [], **state)
        count = tf.cast(tf.shape(self.images)[0], tf.float64)
        players = [(self.generator_variables, generator_gradients,
                    tf.train.AdamOptimizer(self.learning_rate, name='generator_adam'))]
        if discriminator_gradients:
            players.append((self.discriminator_variables, discriminator_gradients, tf.train.AdamOptimizer(
                DISCRIMINATOR_RATE * self.learning_rate, DISCRIMINATOR_BETA1, name='discriminator_adam')))
        # Both players' gradients are complete before either's weights change.
        with tf.control_dependencies(generator_gradients + discriminator_gradients):
            applied = [optimizer.apply_gradients(zip(gradients, variables))
                       for variables, gradients, optimizer in players]
        with tf.control_dependencies(applied):
            averaged = self._average()
            added = tf.assign_add(self.totals, tf.concat([tf.cast(self.losses, tf.float64), [1]], 0) * count)
        with tf.control_dependencies(averaged):
            return tf.group(added, tf.assign_add(self.step, 1))

    def _average(self):
        """Operations that follow the generator's weights with their averages, which begin as equal.

        As `tf.train.ExponentialMovingAverage` does it, which takes half a second longer to build.
        """
        done, self._averages, updates = tf.cast(self.step, tf.float32), {}, []
        decay = tf.minimum(AVERAGE_DECAY, (1 + done) / (10 + done))
        for variable in self.generator_variables:
            with tf.device(variable.device):
                average = tf.get_variable(variable.op.name + '/ExponentialMovingAverage',
                                          initializer=variable.initial_value, trainable=False)
                updates.append(tf.assign_sub(average, (1 - decay) * (average - variable.read_value())))
            self._averages[variable.op.name] = average
        return updates

    def _evaluation(self):
        """The restoration, the mean of that of the picture and of its mirror image, and its METRICS.

        The mean of two guesses errs less than each, but is smoother than each: sharpen() gives some sharpness back.
        """
        real, smooth, hole = self._prepare(self.images, self.mask)
        origin, size = window_origin(hole[0], self.window), smooth.shape.as_list()[1:3]
        averaged = lambda getter, *args, **kwargs: self._averages[getter(*args, **kwargs).op.name]
        mirrored = lambda x: tf.reverse(x, [2])
        opposite = tf.stack([origin[0], size[1] - self.window[1] - origin[1]])  # of the same window in the mirror image
        mean = (self._generator(smooth, hole, origin, averaged) + mirrored(
            self._generator(mirrored(smooth), mirrored(hole), opposite, averaged))) / 2
        mean = paste(tf.clip_by_value(mean, 0, 1), origin, size)
        # Only what is near the hole differs: all else has no error and a similarity of 1, and costs much to look at.
        near = [min(whole, side + 2 * (SSIM_SIDE - 1)) for whole, side in zip(self.shape, self.hole)]
        corner = window_origin(self.mask, near, 1)
        real, hole, mean = [crop(x, corner, near) for x in (real, hole, mean)]
        difference = hole * (sharpen(real + hole * (mean - real)) - real)
        whole = tf.cast(self.images, tf.float32) / 255. + paste(difference, corner, self.shape[:2])
        self.restored = tf.clip_by_value(whole, 0, 1)  # of a rounding error
        error = tf.reduce_sum(difference ** 2, [1, 2, 3])
        psnr = tf.image.psnr(real, real + difference, 1.) + 10 * tf.log(tf.reduce_mean(hole)) / np.log(10)
        share = np.prod([(side - SSIM_SIDE + 1.) / (whole - SSIM_SIDE + 1) for side, whole in zip(near, self.shape)])
        similarity = 1 + share * (ssim(real, real + difference) - 1)
        self.metrics = tf.stack([error, psnr, similarity], 1)


def parameters(variables):
    """Number of weights in a list of variables."""
    return int(sum(np.prod(variable.shape.as_list()) for variable in variables))
