import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.ndimage import convolve

import datamanager
import neuralnet
from datamanager import Dataset
from tf_process import open_session


def feed(network, images, mask, rate=1e-3):
    return {network.images: images, network.mask: mask, network.learning_rate: rate}


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    return Dataset(size=(40, 36), cache=str(tmp_path_factory.mktemp('cache')))


def test_channel_wise_layer_is_a_dense_layer_in_each_channel():
    x = np.random.RandomState(0).randn(2, 3, 2, 5).astype(np.float32)
    y = neuralnet.channel_wise(tf.constant(x), 'layer')
    with open_session() as session:
        kernel, y = session.run([tf.trainable_variables()[0], y])
    expected = np.zeros_like(x)
    for n in range(2):
        for c in range(5):
            z = x[n, :, :, c].ravel().dot(kernel[c])
            expected[n, :, :, c] = np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1).reshape(3, 2)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_convolve_and_its_gradients():
    random = np.random.RandomState(0)
    x, kernel = tf.constant(random.randn(2, 7, 6, 3), tf.float32), tf.constant(random.randn(3, 3, 3, 4), tf.float32)
    ours, theirs = neuralnet.convolve(x, kernel), tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding='SAME')
    with tf.Session() as session:
        for a, b in zip([ours] + tf.gradients(ours ** 2, [x, kernel]), [theirs] + tf.gradients(theirs ** 2, [x, kernel])):
            np.testing.assert_allclose(*session.run([a, b]), rtol=1e-4, atol=1e-3)


def test_each_player_moves_only_its_own_weights_and_the_push_raises_the_fake_logit(faces):
    """Both players' losses minimised jointly over all weights would push the fake logit down instead."""
    network = neuralnet.ContextEncoder(faces.shape, faces.hole)
    assert not {v.name for v in network.generator_variables} & {v.name for v in network.discriminator_variables}
    values = feed(network, faces.images(faces.train[:8]), faces.test_mask)
    with open_session() as session:
        for _ in range(3):
            session.run(network.update, values)
        with tf.variable_scope('', reuse=True):
            whole, smooth, hole = network._prepare(network.varied, network.mask)
            origin = neuralnet.window_origin(hole[0], network.window)
            fill = network._generator(smooth, hole, origin)
            real, hole = [neuralnet.crop(x, origin, network.window) for x in (whole, hole)]
            fake = real + (fill - real) * hole
            logit = tf.reduce_mean(network._discriminator(fake))
            moved = tf.reduce_mean(network._discriminator(fake - 10. * network.push))
            true_push = tf.gradients(tf.reduce_mean(tf.nn.softplus(-network._discriminator(fake))), fake)[0]
            true_push -= neuralnet.blur(true_push, neuralnet.FINE)
            true_push *= neuralnet.ADVERSARY * faces.test_mask.sum()
        before, after, push, expected = session.run([logit, moved, network.push, true_push], values)
        np.testing.assert_allclose(push, expected, rtol=1e-3, atol=1e-7)
        assert after > before


def test_adversary_weight_changes_only_the_generator_of_one_step(faces):
    """The discriminator's step does not depend on the generator's loss, nor touch the generator."""
    def weights_after_a_step(adv_weight):
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            network = neuralnet.ContextEncoder(faces.shape, faces.hole, adv_weight)
            values = feed(network, faces.images(faces.train[:8]), faces.test_mask)
            with open_session() as session:
                start = session.run([network.generator_variables, network.discriminator_variables])
                for variable, value in zip(network.generator_variables + network.discriminator_variables,
                                           [np.random.RandomState(i).randn(*v.shape) * .05
                                            for i, v in enumerate(start[0] + start[1])]):
                    variable.load(value, session)
                session.run(network.update, values)
                return session.run([network.generator_variables, network.discriminator_variables])
    little, much = weights_after_a_step(1e-3), weights_after_a_step(100.)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(little[1], much[1]))
    assert any(not np.allclose(a, b, atol=1e-6) for a, b in zip(little[0], much[0]))


def test_averages_are_those_of_tensorflow(faces):
    network = neuralnet.ContextEncoder(faces.shape, faces.hole, adv_weight=0)
    library = tf.train.ExponentialMovingAverage(neuralnet.AVERAGE_DECAY, network.step - 1, name='library')
    follow = library.apply(network.generator_variables)
    names = [variable.op.name + '/ExponentialMovingAverage' for variable in network.generator_variables]
    ours = [variable for variable in tf.global_variables() if variable.op.name in names]
    theirs = [library.average(variable) for variable in network.generator_variables]
    values = feed(network, faces.images(faces.train[:8]), faces.test_mask)
    with open_session() as session:
        for _ in range(3):
            session.run(network.update, values)
            session.run(follow)
        weights, ours, theirs = session.run([network.generator_variables, ours, theirs])
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(weights, theirs))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_a_mirrored_picture_is_restored_mirrored():
    random = np.random.RandomState(0)
    images, mask = random.randint(0, 256, (4, 64, 64, 3)).astype(np.uint8), np.zeros((64, 64, 1), np.uint8)
    mask[30:45, 9:20] = 1
    network = neuralnet.ContextEncoder((64, 64, 3), (15, 11))
    with open_session() as session:
        for _ in range(3):
            session.run(network.update, feed(network, images, mask, 1e-2))
        one = session.run(network.restored, feed(network, images, mask))
        other = session.run(network.restored, feed(network, images[:, :, ::-1], mask[:, ::-1]))
    np.testing.assert_allclose(one, other[:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize('shape', [(32, 32, 1), (112, 92, 3), (218, 178, 3), (33, 65, 1)])
@pytest.mark.parametrize('kind', ['center', 'lower', 'random'])
def test_any_shape_and_mask_changes_the_hole_alone(shape, kind):
    random = np.random.RandomState(0)
    mask = datamanager.make_mask(kind, shape[0], shape[1], random)
    top, bottom, left, right = datamanager.bounding_box(mask)
    network = neuralnet.ContextEncoder(shape, (bottom - top, right - left))
    images = random.randint(0, 256, (2,) + shape).astype(np.uint8)
    with open_session() as session:
        where = neuralnet.window_origin(tf.cast(network.mask, tf.float32), network.window)
        restored, origin = session.run([network.restored, where], feed(network, images, mask))
    assert origin[0] <= top and bottom <= origin[0] + network.window[0]
    assert origin[1] <= left and right <= origin[1] + network.window[1]
    assert restored.shape == images.shape and 0 <= restored.min() and restored.max() <= 1
    difference = np.abs(restored - images / 255.)
    assert (difference * (1 - mask)).max() < 1e-6 and (difference * mask).max() > .1


def test_smooth_fill_continues_a_slope():
    """A harmonic function's own values fill its hole, nearly, in each colour of each picture."""
    y, x = np.mgrid[:64, :64] / 64.
    pictures = np.array([[x + .5 * y, x - y, y], [.5 - x, 0 * x, x]], np.float32).transpose(0, 2, 3, 1)
    mask = datamanager.center_mask(64, 64)[None].astype(np.float32)
    with tf.Session() as session:
        filled = session.run(neuralnet.smooth_fill(tf.constant(pictures), tf.constant(mask)))
    assert np.abs(filled - pictures).max() < .06


def test_sharpening_gains_more_gradient_than_an_unsharp_mask_of_its_size(faces):
    pictures = tf.constant(faces.images(faces.test[:4]) / np.float32(255))
    smooth = .1 + .8 * neuralnet.blur(pictures, 3)
    with tf.Session() as session:
        before, after, mask = session.run([smooth, neuralnet.sharpen(smooth), smooth - neuralnet.blur(smooth, 3)])
        assert (session.run(neuralnet.sharpen(tf.ones([1, 9, 9, 3]))) == 1).all()
    gradient = lambda x: sum(np.abs(np.diff(x, axis=axis)).sum() for axis in (1, 2))
    same_size = before + mask * np.linalg.norm(after - before) / np.linalg.norm(mask)
    assert 0 <= after.min() and after.max() <= 1
    assert gradient(before) < gradient(same_size) < gradient(after)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match='32'):
        neuralnet.ContextEncoder((31, 64, 3), (10, 20))


def gaussian_ssim(a, b):
    """SSIM as in Wang et al. 2004: 11x11 Gaussian window of deviation 1.5, valid part."""
    window = np.exp(-(np.arange(11) - 5) ** 2 / (2 * 1.5 ** 2))
    window = np.outer(window, window) / window.sum() ** 2
    mean = lambda z: convolve(z, window)[5:-5, 5:-5]
    a_mean, b_mean = mean(a), mean(b)
    covariance = mean(a * b) - a_mean * b_mean
    variances = mean(a * a) - a_mean ** 2 + mean(b * b) - b_mean ** 2
    return np.mean((2 * a_mean * b_mean + 1e-4) * (2 * covariance + 9e-4) / (
        (a_mean ** 2 + b_mean ** 2 + 1e-4) * (variances + 9e-4)))


def test_metrics_against_numpy(faces):
    network = neuralnet.ContextEncoder(faces.shape, faces.hole)
    images = faces.images(faces.test[:3])
    with open_session() as session:
        restored, metrics = session.run([network.restored, network.metrics], feed(network, images, faces.test_mask))
    true = images / 255.
    error = ((restored - true) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(metrics[:, 0], error, rtol=1e-4)
    np.testing.assert_allclose(metrics[:, 1], -10 * np.log10(error / faces.test_mask.sum()), rtol=1e-4)
    expected = [gaussian_ssim(a[:, :, 0], b[:, :, 0]) for a, b in zip(true, restored.astype(np.float64))]
    np.testing.assert_allclose(metrics[:, 2], expected, atol=1e-3)


def test_ssim_is_that_of_the_whole_picture(faces):
    """Of colours, too, and where its places divide into three, four or no parts."""
    true = faces.images(faces.test[:6]).reshape(2, 3, 40, 36).transpose(0, 2, 3, 1)[:, :30, :31] / np.float32(255)
    with tf.Session() as session:
        for sides in ((30, 31), (27, 28)):
            a = tf.constant(true[:, :sides[0], :sides[1]])
            b = neuralnet.blur(a, 3)
            ours, whole = session.run([neuralnet.ssim(a, b), tf.image.ssim(a, b, 1.)])
            np.testing.assert_allclose(ours, whole, rtol=1e-5)
            assert .1 < whole.min() and whole.max() < .99


def test_two_devices_give_the_weights_of_one(faces):
    """Each trains on half of every batch; the batch of one leaves a device without any."""
    def weights(devices):
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            network = neuralnet.ContextEncoder(faces.shape, faces.hole, devices=devices)
            with open_session() as session:
                for rows in (faces.train[:8], faces.train[8:15], faces.train[15:16]):
                    losses, _ = session.run([network.losses, network.update],
                                            feed(network, faces.images(rows), faces.test_mask))
                return losses, session.run(tf.trainable_variables()), session.run(network.totals)
    (losses, one, totals), (same, two, same_totals) = weights(['/cpu:0']), weights(['/cpu:0', '/cpu:0'])
    np.testing.assert_allclose(losses, same, rtol=1e-3)
    np.testing.assert_allclose(totals, same_totals, rtol=1e-3)
    for a, b in zip(one, two):  # Adam moves each weight by up to 1e-3 a step, though its gradient be but rounding
        assert np.abs(a - b).mean() < 1e-5 and (np.abs(a - b) > 1e-4).mean() < 1e-3
