import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small convolutions on a busy machine are many times faster without a second thread to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
