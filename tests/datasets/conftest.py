"""Small images and training sets for the tests of this room."""
import pytest
from pictures import encode, picture


@pytest.fixture(scope="session")
def jpegs():
    """14 different images, 112x112."""
    return [encode(picture(seed)) for seed in range(14)]


@pytest.fixture(scope="session")
def training_folder(tmp_path_factory, jpegs):
    """A training set of three identities with 3, 4 and 7 images."""
    from datasets.training_set import write_training_set
    folder = tmp_path_factory.mktemp("training")
    write_training_set(folder, [jpegs[:3], jpegs[3:7], jpegs[7:]])
    return folder
