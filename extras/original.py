"""The student project that this program began as: its network and objective, to compare with. `python run.py --original`

A plain context encoder (Pathak et al. 2016, https://arxiv.org/abs/1604.07379): the whole picture goes in with its hole at
0, and a whole picture comes out. Both players lower one joint loss. Nothing here is made fast. What is around it (data,
loops, logs, pictures, checkpoints) is the program's.
"""
import numpy as np
import tensorflow.compat.v1 as tf

from neuralnet import PLAYERS, ContextEncoder, crop, weight

WIDTHS = (16, 32, 64, 128, 128, 256)  # channels of the six stages, from the finest to the coarsest


def layer(x, kernel, width, name, activation, apply):
    """activation(apply(x, weights of shape `kernel`) + bias), the bias one of `width` channels."""
    with tf.variable_scope(name):
        return activation(apply(x, weight('kernel', kernel, int(np.prod(kernel[:-2])) * int(x.shape[-1])))
                          + tf.get_variable('bias', [width], tf.float32, tf.zeros_initializer()))


def conv(x, width, name, activation=tf.nn.elu):
    """3x3 convolution of x, [N,H,W,C], to [N,H,W,width]."""
    return layer(x, [3, 3, int(x.shape[-1]), width], width, name, activation,
                 lambda x, kernel: tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding='SAME'))


def up(x, width, name):
    """3x3 transposed convolution of stride 2 of x, [N,H,W,C], to [N,2H,2W,width]."""
    shape = tf.stack([tf.shape(x)[0], 2 * int(x.shape[1]), 2 * int(x.shape[2]), width])
    return layer(x, [3, 3, width, int(x.shape[-1])], width, name, tf.nn.elu,
                 lambda x, kernel: tf.nn.conv2d_transpose(x, kernel, shape, strides=[1, 2, 2, 1], padding='SAME'))


def dense(x, width, name, activation):
    """Fully connected layer of x, [N,C], to [N,width]."""
    return layer(x, [int(x.shape[-1]), width], width, name, activation, tf.matmul)


def encoder(x):
    """Six stages of two convolutions, pooled between: x, [N,H,W,C], to [N,H/32,W/32,256]."""
    for stage, width in enumerate(WIDTHS):
        if stage:
            x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')
        x = conv(conv(x, width, 'encode%d_1' % stage), width, 'encode%d_2' % stage)
    return x


def channel_wise(x):
    """The paper's layer: a dense layer in each channel of x, [N,h,w,C]; returns the same shape."""
    _, height, breadth, channels = x.shape.as_list()
    cells = height * breadth
    flat = tf.transpose(tf.reshape(x, [-1, cells, channels]), [2, 0, 1])
    with tf.variable_scope('channel_wise'):
        kernel = weight('kernel', [channels, cells, cells], cells)
        bias = tf.get_variable('bias', [channels, 1, cells], tf.float32, tf.zeros_initializer())
        return tf.reshape(tf.transpose(tf.nn.elu(tf.matmul(flat, kernel) + bias), [1, 2, 0]), [-1, height, breadth, channels])


def decoder(x, channels):
    """The mirror image of `encoder`: to [N,H,W,channels] in [0, 1]."""
    x = conv(conv(x, WIDTHS[-1], 'decode5_1'), WIDTHS[-1], 'decode5_2')
    for stage in reversed(range(len(WIDTHS) - 1)):
        x = conv(up(x, WIDTHS[stage], 'up%d' % stage), WIDTHS[stage], 'decode%d' % stage)
    return conv(x, channels, 'paint', tf.nn.sigmoid)


class Original(ContextEncoder):
    """The student project's network and objective, with the feeds, fetches and state of ContextEncoder.

    losses: loss_adv is -log(1 - D(restored)), loss_dis that and -log D(real); loss_rec + adv_weight * loss_dis is
    lowered by all weights, the generator's, too. restored is by the weights of the last step, not by their average.
    """

    average_decay = 0.

    def _paint(self, whole, hole):
        """Whole pictures, [N,H,W,C] in [0, 1], painted from pictures without what lies in the hole, [1,H,W,1]."""
        return decoder(channel_wise(encoder(whole * (1 - hole))), self.shape[2])

    def _generator(self, whole, hole, window, precision=tf.float32, getter=None):
        """What the generator paints in the window, [N,h,w,C] float32 in [0, 1]; see ContextEncoder."""
        with tf.variable_scope('generator', reuse=tf.AUTO_REUSE, custom_getter=getter):
            return crop(self._paint(whole, hole), window)

    def _discriminator(self, whole):
        """Logits, [N,1], that whole pictures, [N,H,W,C] in [0, 1], are real."""
        with tf.variable_scope('discriminator', reuse=tf.AUTO_REUSE):
            x = encoder(whole)
            return dense(tf.reshape(x, [-1, int(np.prod(x.shape.as_list()[1:]))]), 1, 'verdict', tf.identity)

    def _tower(self, images, scale):
        """See ContextEncoder: both players' gradients are of one joint loss."""
        whole, _, hole, _ = self._prepare(images)
        with tf.variable_scope('generator', reuse=tf.AUTO_REUSE):
            painted = self._paint(whole, hole)
        loss_rec = scale * tf.reduce_sum((hole * (painted - whole)) ** 2)
        if not self._weight:
            return tf.stack([loss_rec] + [tf.zeros([])] * 4), tf.gradients(loss_rec, tf.trainable_variables('generator'))
        logit_real, logit_fake = self._discriminator(whole), self._discriminator(painted)
        total = lambda x: scale * tf.reduce_sum(tf.cast(x, tf.float32))
        loss_adv = total(tf.nn.softplus(logit_fake))  # -log(1 - D): D is the sigmoid of the logit
        loss_dis = total(tf.nn.softplus(-logit_real)) + loss_adv
        return tf.stack([loss_rec, loss_adv, loss_dis, total(logit_real > 0), total(logit_fake < 0)]), tf.gradients(
            loss_rec + self._weight * loss_dis, sum(map(tf.trainable_variables, PLAYERS), []))

    def _descend(self, gradients, variables):
        """The operation that moves both players' weights, by Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980)."""
        return tf.train.AdamOptimizer(self.learning_rate, name='adam').apply_gradients(list(zip(gradients, variables)))
