"""Labeled Faces in the Wild (Huang et al. 2007): 13,233 photographs of 5,749 people, as scikit-learn downloads them."""
import os
import tarfile
import warnings

from sklearn.datasets import fetch_lfw_people, get_data_home

from datamanager import DataError

def fetch():
    """The folder of the photographs, 250x250, a folder a person.

    Downloaded once (230 MB), into scikit-learn's data folder: SCIKIT_LEARN_DATA, else ~/scikit_learn_data.
    Raises DataError where that fails.
    """
    try:
        home = os.path.join(get_data_home(), 'lfw_home')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # it warns of each new try
            fetch_lfw_people(min_faces_per_person=10 ** 6)
    except ValueError:  # nobody has that many: all is there, and none was decoded
        pass
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError('Labeled Faces in the Wild cannot be downloaded (%s): try again, or copy the folder '
                        'scikit_learn_data/lfw_home of a machine that has it, and set SCIKIT_LEARN_DATA to where '
                        'scikit_learn_data is' % error)
    return os.path.join(home, 'lfw_funneled')
