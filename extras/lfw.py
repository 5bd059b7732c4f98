"""Labeled Faces in the Wild (Huang et al. 2007): 13,233 photographs of 5,749 people, as scikit-learn downloads them."""
import os
import tarfile
import warnings

from PIL import Image
from sklearn.datasets import fetch_lfw_people, get_data_home

from datamanager import DataError, crop_box

MIDDLE = .72  # of a photograph's sides: head and hair, with the eyes about half way down; around it are other people


def middle(image, height, width):
    """The face, a Pillow image of that size, in the middle of a photograph, another: Dataset's `align`."""
    box, (x, y) = crop_box(image.size, height, width), [side / 2 for side in image.size]
    left, top, right, bottom = [MIDDLE * side for side in (box[0] - x, box[1] - y, box[2] - x, box[3] - y)]
    return image.resize((width, height), Image.BICUBIC, box=(x + left, y + top, x + right, y + bottom))


def fetch():
    """The folder of the photographs, 250x250, a folder a person.

    Downloaded once (230 MB), into scikit-learn's data folder: SCIKIT_LEARN_DATA, else ~/scikit_learn_data.
    Raises DataError where that fails.
    """
    try:
        home = os.path.join(get_data_home(), 'lfw_home')
        archive, folder = [os.path.join(home, name) for name in ('lfw-funneled.tgz', 'lfw_funneled')]
        if os.path.exists(archive) and os.path.exists(folder):  # removed once all is out; scikit-learn does not look
            raise DataError('%s: its unpacking was stopped: remove that folder (or, if it is whole, the archive beside '
                            'it) and give the same command again' % folder)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # it warns of each new try
            fetch_lfw_people(min_faces_per_person=10 ** 6)
    except ValueError:  # nobody has that many: all is there, and none was decoded
        pass
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError('Labeled Faces in the Wild cannot be downloaded (%s): try again, or copy the folder '
                        'scikit_learn_data/lfw_home of a machine that has it, and set SCIKIT_LEARN_DATA to where '
                        'scikit_learn_data is' % error)
    return folder
