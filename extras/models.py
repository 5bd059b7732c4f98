"""A folder with a model in it: whose it is, how it was trained, ways in and out.

An exported model is a TensorFlow SavedModel of the averaged generator alone, with the config.json of its training. Its
variables are a TensorFlow checkpoint, so that this program can use it and begin from it, too.
"""
import glob
import json
import os
import re
import tempfile
from contextlib import ExitStack, contextmanager

import numpy as np
import tensorflow.compat.v1 as tf
from filelock import Timeout

from datamanager import lock, shown
from neuralnet import stages_of
from tf_process import RunError, models, newest_whole, remove, replacing, sync, unwritten

SHIPPED = 'checkpoints/faces128'  # the included models, beside the program: trainings begin from this one
FINE = 'checkpoints/faces256'     # and photos are repainted with this one
AVERAGE = '/ExponentialMovingAverage'
FINGERPRINTS = 'faces', 'masks'  # settings that say what was in the files; an older config.json has none
UNTRAINED = '%s: no trained model there: train one with python run.py first'
SIZED = 'channel_wise'  # the layer whose weights depend on the picture's size


# ------------------------------------------------------------------------------------------------- the folder

def locate(folder):
    """`folder`; for an included one that beside the program, if there is none here: it can be named from anywhere."""
    if os.path.normpath(folder) not in map(os.path.normpath, (SHIPPED, FINE)) or models(folder) or exported(folder):
        return folder
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), folder)


def is_utf8(name):
    """Whether a name is UTF-8, as all that TensorFlow is handed must be."""
    return name == name.encode(errors='ignore').decode()


def is_plain(name):
    """Whether TensorFlow, which reads models by patterns, finds one of that name."""
    return not (set('[*?\\') - {os.sep}).intersection(name)


def exported(folder):
    """Path of the exported model's weights, without extension, in a list; [] where there is none."""
    path = os.path.join(folder, 'variables', 'variables')
    return [path] if os.path.exists(path + '.index') else []


def settings(folder):
    """The settings, a dictionary, that the model in `folder` was trained with; None where there is no model."""
    folder = locate(folder)
    path = os.path.join(folder, 'config.json')
    if not models(folder) and not exported(folder):
        return None
    if not os.path.exists(path):
        raise RunError('%s is missing beside a trained model: put it back, begin anew with --restart, or name '
                       'another --checkpoints' % path)
    config = read_config(path)
    if config is None:
        raise RunError('%s is damaged: begin anew with --restart, or name another --checkpoints' % path)
    return config


def read_config(path):
    """The settings, a dictionary, in a config.json of this program; None where it is another program's or damaged."""
    try:
        with open(path) as file:
            config = dict(json.load(file))
    except (ValueError, TypeError):
        return None
    return dict({'init': 'none', 'original': False}, **config) if {'size', 'channels', 'mask'} <= set(config) else None


def check_owner(checkpoints):
    """RunError where `checkpoints` is another program's folder."""
    path = os.path.join(checkpoints, 'config.json')
    if os.path.exists(path) and not models(checkpoints) and read_config(path) is None:
        raise RunError('%s: not of this program: name another --checkpoints' % path)


def trained(checkpoints, included=SHIPPED):
    """(folder, settings) of the model to use: that in `checkpoints`, or where there is none an included one; says so."""
    kept = settings(checkpoints)
    if kept is not None:
        return checkpoints, kept
    kept = settings(included)
    if kept is None:
        raise RunError(UNTRAINED % checkpoints)
    print('%s: no trained model there, so an included one is used, %s' % (checkpoints, included))
    return included, kept


def beginning(init, kept, size, packaged):
    """(folder of the model that a training begins from or 'none', settings that its size comes from or None).

    init: as the user says, or None: then as the training that goes on has it, whose settings are `kept`; else the
    `packaged` faces begin from the included model, unless another `size` is asked for.
    """
    if init:
        init = os.path.normpath(init)
    elif kept:
        init = kept['init']
    else:
        shipped = settings(SHIPPED)
        at_its_size = shipped and list(size or shipped['size']) == shipped['size']
        init = SHIPPED if packaged and at_its_size else 'none'
    source = kept or (settings(init) if init != 'none' else None)
    if init != 'none' and source is None:
        raise RunError('%s: no model to begin from: give --init the folder of a trained or exported model, or none' % (
            shown(init)))
    return init, source


def check_config(checkpoints, config, fresh):
    """Keep `config` beside the checkpoints, or RunError where the model there was trained with other settings."""
    kept = settings(checkpoints)
    for name, value in sorted(config.items()):
        if kept is not None and kept.get(name, value if name in FINGERPRINTS else None) != value:
            how = 'on other %s' % name if name in FINGERPRINTS else 'with %s %s, not %s' % (name, kept.get(name), value)
            raise RunError('%s: the model there was trained %s: begin anew with --restart, or name another '
                           '--checkpoints and --results, and --init %s to go on from it' % (checkpoints, how, checkpoints))
    if kept is None and fresh:
        with replacing(os.path.join(checkpoints, 'config.json')) as part, open(part, 'w') as file:
            json.dump(config, file, indent=1, sort_keys=True)


def clear(checkpoints, results):
    """Remove the model, and the log, grids and TensorBoard logs that belong to it, nothing else: --restart."""
    ours = [(checkpoints, r'model-\d+\.(index|data-.*)|checkpoint|config\.json')]
    if os.path.exists(os.path.join(results, 'loss.csv')):  # else the folders are not ours
        ours += [(os.path.join(results, 'training'), r'\d{8}\.png'),
                 (os.path.join(results, 'tensorboard'), r'events\..*'), (results, r'loss\.csv')]
    for folder, names in ours:
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if re.fullmatch(names, name):
                remove(os.path.join(folder, name))


def writable(folder):
    """Make `folder`, or RunError where nothing can be written into it."""
    try:
        os.makedirs(folder, exist_ok=True)
        part = os.path.join(folder, '.writable.part')
        with open(part, 'w'):
            pass
        os.remove(part)
    except OSError as error:
        raise unwritten(folder, error)


@contextmanager
def locked(*folders):
    """Hold the folders for this process alone, or RunError; the locks end with the process."""
    with ExitStack() as stack:
        for folder in {os.path.realpath(folder): folder for folder in folders}.values():
            try:
                stack.enter_context(lock(os.path.join(folder, 'lock'), timeout=0))
            except Timeout:
                raise RunError('%s: another run is using this folder: wait for it, or name another --checkpoints '
                               'and --results' % folder)
        yield


# ------------------------------------------------------------------------------------------------- in and out

def load(session, network, folder):
    """Give the network the weights of the model in `folder`, a folder of checkpoints or an exported model.

    The averaged generator becomes both the weights and their averages; the discriminator comes along where the model
    has one that fits. A grey network may take a colour model's, see `grey`. Where the pictures' sizes differ, stages that the
    model lacks stay as they were, and so does the channel-wise layer where it does not fit.
    Raises RunError where there is no whole model, or it is of another network.
    """
    config = settings(folder)
    if config is None:
        raise RunError(UNTRAINED % folder)
    if config['channels'] < network.shape[2]:
        raise RunError('%s: a model of grey faces cannot paint colours: give it grey ones' % folder)
    wanted = [(variable, variable.op.name + AVERAGE) for variable in network.generator_variables]
    wanted += [(variable, variable.op.name) for variable in tf.global_variables() if variable.op.name.endswith(AVERAGE)]
    wanted += [(variable, variable.op.name) for variable in network.discriminator_variables]
    values, stages, anew, loaded = _read(folder, [name for _, name in wanted]), stages_of(config['size']), set(), {}
    for variable, name in wanted:
        value = grey(values[name], variable.shape.as_list()) if name in values else None
        if value is not None and list(value.shape) == variable.shape.as_list():
            loaded[variable] = value
        elif name.endswith(AVERAGE):
            layer = name.split('/')[1]
            if layer != SIZED and int(re.sub(r'\D', '', layer) or 0) < stages:
                raise RunError('%s: the model there is of another network: its %s differs' % (folder, name[:-len(AVERAGE)]))
            anew.add(layer)
    _assign(session, loaded)
    if anew:
        print('its pictures were %dx%d, these are %dx%d: begun anew: %s' % (
            tuple(config['size']) + network.shape[:2] + (', '.join(sorted(anew)),)))


def _assign(session, values):
    """Give variables their arrays, a dictionary, in one run; Variable.load() for each of a hundred takes most of a second."""
    session.run([variable.initializer for variable in values],
                {variable.initializer.inputs[1]: value for variable, value in values.items()})


def _read(folder, names):
    """{name: float32 array} of those of the names that the newest whole model in `folder` holds."""
    def read(path):
        with tempfile.TemporaryDirectory() as place:
            if not (is_utf8(path) and is_plain(path)):  # of the folder the program was put into: a link to it has another
                os.symlink(os.path.abspath(os.path.dirname(path)), os.path.join(place, 'model'))
                path = os.path.join(place, 'model', os.path.basename(path))
            reader = tf.train.load_checkpoint(path)
            return {name: reader.get_tensor(name).astype(np.float32) for name in set(names) if reader.has_tensor(name)}
    folder = locate(folder)
    return newest_whole(folder, models(folder) or exported(folder), read)


def grey(value, shape):
    """A colour model's array for a grey network whose variable has `shape`; itself where that is its shape.

    Of a grey picture the three colours are equal: their weights add up where they are read, and what is painted is the
    mean of the three. A kernel, [k,k,I,O], reads axis 2 and paints axis 3.
    """
    if value.ndim == 4 and value.shape[2] == shape[2] + 2:
        value = np.concatenate([value[:, :, :3].sum(2, keepdims=True), value[:, :, 3:]], 2)
    if value.shape[-1:] == (3,) and shape[-1] == 1:
        value = value.mean(-1, keepdims=True)
    return value


def export(session, network, folder, config):
    """Write the session's averaged generator to `folder` as a SavedModel, with `config` beside it.

    Its signature, 'serving_default': images uint8 [N,H,W,C] and mask uint8 [H,W,1], 1 in the hole, to restored uint8
    [N,H,W,C]. Its weights are stored in half precision, which moves no pixel by more than a grey level. Raises RunError where the folder holds something else or cannot be written.
    """
    there = os.listdir(folder) if os.path.isdir(folder) else [folder] if os.path.exists(folder) else []
    ours = exported(folder) and 'config.json' in there
    if there and not (ours and set(there) <= {'saved_model.pb', 'variables', 'assets', 'config.json', 'lock'}):
        raise RunError('%s: holds something else than an exported model: name another folder' % folder)
    restored = tf.cast(255 * network.restored + .5, tf.uint8)  # as tf_process.to_bytes does it
    nodes = tf.graph_util.extract_sub_graph(tf.get_default_graph().as_graph_def(), [restored.op.name])
    for node in nodes.node:
        for attribute in ('_class', '_gradient_op_type'):  # of placement and training
            if attribute in node.attr:
                del node.attr[attribute]
    weights = {node.name: session.run(node.name + ':0') for node in nodes.node if node.op.startswith('Variable')}
    used = tf.GraphDef(versions=nodes.versions, node=[node for node in nodes.node if node.name not in weights])
    with tf.Graph().as_default(), tf.Session() as writing:
        # TensorFlow 2 serves resource variables only, and the network's are of the older kind.
        variables = {name: tf.get_variable(name + AVERAGE, value.shape, tf.float16, use_resource=True)
                     for name, value in weights.items()}
        images, mask, restored = tf.import_graph_def(
            used, {name + ':0': tf.cast(variable.read_value(), tf.float32) for name, variable in variables.items()},
            [tensor.name for tensor in (network.images, network.mask, restored)], name='network')
        _assign(writing, {variable: weights[name] for name, variable in variables.items()})
        signature = tf.saved_model.predict_signature_def({'images': images, 'mask': mask}, {'restored': restored})
        with replacing(folder) as part:
            try:
                builder = tf.saved_model.Builder(part)
                builder.add_meta_graph_and_variables(writing, [tf.saved_model.SERVING], {
                    tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature}, strip_default_attrs=True)
                builder.save()
            except tf.errors.OpError as error:
                raise unwritten(folder, error)
            with open(os.path.join(part, 'config.json'), 'w') as file:
                json.dump(config, file, indent=1, sort_keys=True)
            sync(*glob.glob(os.path.join(glob.escape(part), '**'), recursive=True))
