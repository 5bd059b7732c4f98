import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from scipy.ndimage import convolve

import datamanager
import neuralnet
from conftest import face_paths
from datamanager import Dataset
from extras import models
from extras.masks import make_mask, random_mask
from extras.original import Original
from tf_process import measure, open_session


CENTER = datamanager.center_mask(40, 36)


def feed(network, images, mask, rate=1e-3):
    return {network.images: images, network.mask: mask, network.learning_rate: rate}


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    return Dataset(size=(40, 36), cache=str(tmp_path_factory.mktemp('cache')))


def test_channel_wise_layer_is_a_dense_layer_in_each_channel():
    x = np.random.RandomState(0).randn(2, 3, 4, 6).astype(np.float32)
    y = neuralnet.channel_wise(tf.constant(x), 'layer')
    with open_session() as session:
        kernel, y = session.run([tf.trainable_variables()[0], y])

    def dense(cells, kernel):
        z = cells.ravel().dot(kernel)
        return np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1).reshape(cells.shape)
    for n in range(2):
        for c in range(3):  # a channel, and the other of its pair
            np.testing.assert_allclose(y[n, :, :, c], dense(x[n, :, :, c], kernel[c]), atol=1e-5)
            np.testing.assert_allclose(y[n, :, ::-1, 3 + c], dense(x[n, :, ::-1, 3 + c], kernel[c]), atol=1e-5)


def test_convolve_and_its_gradients():
    random = np.random.RandomState(0)
    x, kernel = tf.constant(random.randn(2, 7, 6, 3), tf.float32), tf.constant(random.randn(3, 3, 3, 4), tf.float32)
    ours, theirs = neuralnet.convolve(x, kernel), tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding='SAME')
    with tf.Session() as session:
        for a, b in zip([ours] + tf.gradients(ours ** 2, [x, kernel]), [theirs] + tf.gradients(theirs ** 2, [x, kernel])):
            np.testing.assert_allclose(*session.run([a, b]), rtol=1e-4, atol=1e-3)


def test_up_is_a_transposed_convolution_and_so_are_its_gradients():
    x = tf.constant(np.random.RandomState(0).randn(2, 3, 5, 4), tf.float32)
    y = neuralnet.up(x, 6, 'up')
    kernel = tf.global_variables()[0]
    theirs = tf.nn.elu(tf.nn.conv2d_transpose(x, tf.transpose(neuralnet.pair(kernel), [0, 1, 3, 2]), [2, 6, 10, 6],
                                              strides=[1, 2, 2, 1], padding='SAME'))
    weighted = np.random.RandomState(1).randn(2, 6, 10, 6)
    with open_session() as session:
        for ours, library in session.run([(y, theirs)] + list(zip(*[
                tf.gradients(each * weighted, [x, kernel]) for each in (y, theirs)]))):
            np.testing.assert_allclose(ours, library, atol=1e-4)


@pytest.mark.parametrize('shape', [(32, 64, 1), (46, 52, 3)])
def test_a_mirrored_picture_is_restored_to_the_mirror_image(shape):
    """Whatever the weights, and wherever the hole."""
    random, network = np.random.RandomState(0), neuralnet.ContextEncoder(shape, adv_weight=0)
    images, mask = random.randint(0, 256, (2,) + shape).astype(np.uint8), random_mask(*shape[:2], random=random)
    with open_session() as session:
        for average in network._averages.values():
            average.load(.1 * random.randn(*average.shape.as_list()), session)
        restored, mirrored = [session.run(network.restored, feed(network, images[:, :, ::turn], mask[:, ::turn]))
                              for turn in (1, -1)]
    assert np.abs(restored - images / 255.).max() > .1
    np.testing.assert_allclose(restored, mirrored[:, :, ::-1], atol=1e-3)


def test_each_player_moves_only_its_own_weights_towards_its_own_aim(faces):
    """Both players' losses minimised jointly over all weights would make restored windows look less real."""
    network = neuralnet.ContextEncoder(faces.shape, adv_weight=1e4)
    generator, discriminator = network.generator_variables, network.discriminator_variables
    assert not {v.name for v in generator} & {v.name for v in discriminator}
    values = feed(network, faces.images(faces.train[:8]), CENTER, rate=1e-5)
    with open_session() as session:
        start = session.run([generator, discriminator])
        before = session.run(network.losses, values)
        session.run(network.update, values)
        moved = session.run([generator, discriminator])
        for variables, theirs, mine in ((discriminator, start[1], 1), (generator, start[0], 2)):
            for variable, value in zip(variables, theirs):  # as if only the other player had moved
                variable.load(value, session)
            assert session.run(network.losses, values)[mine] < before[mine]
            for variable, value in zip(generator + discriminator, moved[0] + moved[1]):
                variable.load(value, session)


def test_adversary_weight_changes_only_the_generator_of_one_step(faces):
    """The discriminator's step does not depend on the generator's loss, nor touch the generator."""
    def weights_after_a_step(adv_weight):
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            network = neuralnet.ContextEncoder(faces.shape, adv_weight)
            values = feed(network, faces.images(faces.train[:8]), CENTER)
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
    network = neuralnet.ContextEncoder(faces.shape, adv_weight=0)
    library = tf.train.ExponentialMovingAverage(network.average_decay, network.step - 1, name='library')
    follow = library.apply(network.generator_variables)
    names = [variable.op.name + '/ExponentialMovingAverage' for variable in network.generator_variables]
    ours = [variable for variable in tf.global_variables() if variable.op.name in names]
    theirs = [library.average(variable) for variable in network.generator_variables]
    values = feed(network, faces.images(faces.train[:8]), CENTER)
    with open_session() as session:
        for _ in range(3):
            session.run(network.update, values)
            session.run(follow)
        weights, ours, theirs = session.run([network.generator_variables, ours, theirs])
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(weights, theirs))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize('shape', [(32, 32, 1), (112, 92, 3), (218, 178, 3), (33, 65, 1)])
def test_any_shape_and_mask_changes_the_hole_alone(shape):
    random, network = np.random.RandomState(0), neuralnet.ContextEncoder(shape, adv_weight=0)
    images = random.randint(0, 256, (2,) + shape).astype(np.uint8)
    with open_session() as session:
        for kind in ('center', 'lower', 'random', 'free'):
            mask = make_mask(kind, shape[0], shape[1], random)
            restored = session.run(network.restored, feed(network, images, mask))
            assert restored.shape == images.shape and 0 <= restored.min() and restored.max() <= 1
            difference = np.abs(restored - images / 255.)
            assert (difference * (1 - mask)).max() < 1e-6 and (difference * mask).max() > .1


def test_smooth_fill_continues_a_slope():
    """A harmonic function's own values fill its hole, nearly, in each colour of each picture."""
    y, x = np.mgrid[:64, :64] / 64.
    pictures = np.array([[x + .5 * y, x - y, y], [.5 - x, 0 * x, x]], np.float32).transpose(0, 2, 3, 1)
    mask = datamanager.center_mask(64, 64)[None].astype(np.float32)
    with tf.Session() as session:
        filled = session.run(neuralnet.smooth_fill(tf.constant(pictures), tf.constant(mask), 5))
    assert np.abs(filled - pictures).max() < .06


def test_orthogonal_keeps_directions_and_makes_their_weights_alike():
    random = np.random.RandomState(0)
    matrices = [random.randn(rows, columns) for rows, columns in ((72, 20), (30, 20), (16, 7))]
    with tf.Session() as session:
        made = session.run(neuralnet.orthogonal([tf.constant(x, tf.float32) for x in matrices]))
    for x, y in zip(matrices, made):
        left, _, right = np.linalg.svd(x, full_matrices=False)
        weights = left.T.dot(y / (.2 * np.sqrt(len(x)))).dot(right.T)
        assert .6 < np.diag(weights).min() and np.diag(weights).max() < 1.3
        np.testing.assert_allclose(weights, np.diag(np.diag(weights)), atol=1e-4)


def test_a_step_moves_kernels_far_in_more_than_one_direction(faces):
    """Muon: the largest singular values of a kernel's step are alike; Adam moves a bias by at most the rate."""
    network, rate = neuralnet.ContextEncoder(faces.shape), 1e-3
    variables = network.generator_variables + network.discriminator_variables
    with open_session() as session:
        before = session.run(variables)
        session.run(network.update, feed(network, faces.images(faces.train[:8]), CENTER, rate))
        steps = [new - old for new, old in zip(session.run(variables), before)]
    kernels = [(variable.op.name, step.reshape(-1, step.shape[-1])) for variable, step in zip(variables, steps) if step.ndim == 4]
    assert len(kernels) > 30
    for name, step in kernels:  # so few pictures, so small, have not a gradient in every direction
        values = np.linalg.svd(step, compute_uv=False) / (.2 * rate * np.sqrt(len(step)))
        assert .6 < values[0] < 1.3
        if name != 'discriminator/half/judge4/kernel':  # of which a window of a few cells asks hardly more than one
            assert (values[1:2] > .6).all(), name
    assert all(0 < np.abs(step).max() < 1.01 * rate for step in steps if step.ndim != 4)


def test_the_window_is_the_smallest_of_whole_cells_that_holds_the_hole():
    random, mask = np.random.RandomState(0), tf.placeholder(tf.float32, [128, 96, 1])
    cell, window = 8, neuralnet.window_around(mask, 8)
    with tf.Session() as session:
        for _ in range(20):
            hole = random_mask(128, 96, random)
            top, bottom, left, right = datamanager.bounding_box(hole)
            origin, size = session.run(window, {mask: hole})
            assert [origin[0], size[0], origin[3], size[3]] == [0, -1, 0, -1]  # all pictures, all channels
            origin, size = origin[1:3], size[1:3]
            assert not (origin % cell).any() and not (size % cell).any()
            before, behind = [top, left] - origin, origin + size - [bottom, right]
            assert (before >= 0).all() and (before < cell).all()
            assert (behind >= 0).all() and (behind < cell).all()


def test_the_generator_lowers_squared_error_and_weighted_adversarial_loss_and_nothing_else(faces):
    """Adam's first step moves each bias by the rate against the sign of its gradient: that of the two logged losses."""
    network, rate = neuralnet.ContextEncoder(faces.shape, adv_weight=3.), 1e-4
    weight = 3 * neuralnet.ADVERSARY * CENTER.sum()
    biases = [variable for variable in network.generator_variables if len(variable.shape) < 4]
    gradients = tf.gradients(network.losses[0] + weight * network.losses[1], biases)
    values = feed(network, faces.images(faces.train[:4]), CENTER, rate)
    with open_session() as session:
        expected, before = session.run([gradients, biases], values)
        session.run(network.update, values)
        moved = np.concatenate([(new - old).ravel() for new, old in zip(session.run(biases), before)])
    expected = np.concatenate([gradient.ravel() for gradient in expected])
    clear = np.abs(expected) > 1e-4
    assert clear.mean() > .5
    np.testing.assert_allclose(moved[clear], -rate * np.sign(expected[clear]), rtol=.02)


@pytest.mark.parametrize('shape', [(40, 36, 1), (64, 48, 3)])
def test_the_original_trains_on_one_joint_loss(faces, shape):
    """Adam's first step moves every weight, either player's, against the sign of the joint loss's gradient."""
    network = Original(shape)
    joint = network.losses[0] + network.losses[2]
    variables = network.generator_variables + network.discriminator_variables
    random = np.random.RandomState(0)
    values = feed(network, random.randint(0, 256, (4,) + shape).astype(np.uint8), datamanager.center_mask(*shape[:2]), 1e-4)
    gradients = tf.gradients(joint, variables)
    with open_session() as session:
        expected, before = session.run([gradients, variables], values)
        session.run(network.update, values)
        moved = session.run(variables)
        restored = session.run(network.restored, values)
    for gradient, old, new in zip(expected, before, moved):
        clear = np.abs(gradient) > 1e-4
        np.testing.assert_allclose((new - old)[clear], -1e-4 * np.sign(gradient[clear]), rtol=.05)
    assert restored.shape == (4,) + shape and 0 <= restored.min() and restored.max() <= 1


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match='32'):
        neuralnet.ContextEncoder((31, 64, 3))


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


def test_metrics_against_their_definitions(faces):
    """Of colours and of a hole at the border, too."""
    random, images = np.random.RandomState(0), faces.images(faces.test[:6]).reshape(2, 3, 40, 36).transpose(0, 2, 3, 1)
    for mask in (CENTER, np.roll(CENTER, 14, 0)):
        true = images / 255.
        restored = np.clip(true + mask * random.randn(*true.shape) / 9, 0, 1).astype(np.float32)
        metrics, error = measure(images, restored, mask), ((restored - true) ** 2).sum((1, 2, 3))
        np.testing.assert_allclose(metrics[:, 0], error, rtol=1e-4)
        np.testing.assert_allclose(metrics[:, 1], -10 * np.log10(error / mask.sum() / 3), rtol=1e-4)
        expected = [np.mean([gaussian_ssim(a[:, :, c], b[:, :, c]) for c in range(3)])
                    for a, b in zip(true, restored.astype(np.float64))]
        np.testing.assert_allclose(metrics[:, 2], expected, atol=1e-4)


def test_a_grown_network_begins_by_painting_what_the_smaller_one_paints(capsys):
    """Of the pictures halved; nearly, since its finest stage begins faint."""
    painted, mask = [], make_mask('lower', 128, 128)
    halved = np.array([np.asarray(Image.open(path).resize((128, 128))) for path in face_paths()[::200]])[..., None]
    for times in 1, 2:
        with tf.Graph().as_default():
            network = neuralnet.ContextEncoder((128 * times, 128 * times, 1), adv_weight=0)
            with open_session() as session:
                models.load(session, network, 'checkpoints/faces128')
                large = [part.repeat(times, -3).repeat(times, -2) for part in (halved, mask)]
                fill = session.run(network.restored, feed(network, *large))
                painted.append(fill.reshape(2, 128, times, 128, times).mean((2, 4)))
    assert 'begun anew: decode6, encode6' in capsys.readouterr().out
    one, other, true = [part[:, mask[..., 0] > 0] for part in painted + [halved[..., 0] / 255.]]
    assert np.abs(one - other).mean() < .2 * np.abs(one - true).mean()


def test_two_precisions_learn_alike(faces):
    """bfloat16 in the convolutions changes a step's gradients a little, and nothing of what is restored."""
    if tf.__version__ < '2':
        pytest.skip('TensorFlow 1.14 has no convolutions in bfloat16')
    outcomes = []
    for precision in tf.float32, tf.bfloat16:
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            network = neuralnet.ContextEncoder(faces.shape, precision=precision)
            values = feed(network, faces.images(faces.train[:8]), CENTER, rate=1e-4)
            with open_session() as session:
                outcomes.append([session.run(network.restored, values)] + [
                    session.run([network.losses, network.update], values)[0] for _ in range(5)])
                assert {variable.dtype.base_dtype for variable in tf.trainable_variables()} == {tf.float32}
    np.testing.assert_array_equal(outcomes[0][0], outcomes[1][0])
    for one, other in zip(*outcomes):
        np.testing.assert_allclose(one[:1], other[:1], rtol=.05)


def test_two_devices_give_the_weights_of_one(faces):
    """Each trains on half of every batch; the batch of one leaves a device without any. As several GPUs would."""
    def weights(devices):
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            network = neuralnet.ContextEncoder(faces.shape, devices=devices)
            with tf.Session(config=tf.ConfigProto(device_count={'CPU': 2})) as session:
                session.run(tf.global_variables_initializer())
                for rows in (faces.train[:8], faces.train[8:15], faces.train[15:16]):
                    losses, _ = session.run([network.losses, network.update],
                                            feed(network, faces.images(rows), CENTER))
                return losses, session.run(tf.trainable_variables()), session.run(network.totals)
    (losses, one, totals), (same, two, same_totals) = weights(['/cpu:0']), weights(['/cpu:0', '/cpu:1'])
    np.testing.assert_allclose(losses, same, rtol=1e-3)
    np.testing.assert_allclose(totals, same_totals, rtol=1e-3)
    for a, b in zip(one, two):  # Adam moves each weight by up to 1e-3 a step, though its gradient be but rounding
        assert np.abs(a - b).mean() < 1e-5 and (np.abs(a - b) > 1e-4).mean() < 1e-3
