import subprocess
import sys


def test_the_client_needs_no_tensorflow() -> None:
    check = (
        "import sys, sealserve.client.load as _; "
        "heavy = {'tensorflow', 'ml_dtypes', 'tensorflow_serving'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
