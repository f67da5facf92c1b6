"""RSA keys that everybody may know: making one takes seconds, and tests need none that is secret.

Both have 3072 bits and exponent 3, as SIGSTRUCT's signatures need.
"""

import functools
import math

from cryptography.hazmat.primitives.asymmetric import rsa

_PRIMES = (
    (
        int(
            "ef7b9799381cd4070fd20a72c0e6f745c982b02f919c169f1024e14234c463dfd8fbc27c2a2b53153e7bf914b927e923"
            "0fbf6fb855fe85c6b7f5b0d39c3d1f7edab802c3d85718d2c16edd17c77a2f54b4f47cb8aca5544bb314876030993ef4"
            "7d5a34a83d482f7d04f2c3158f72a94c6774247a5668a9425d649fcb2408a0c73586ead74d0d7d4c09be710c14539fc4"
            "0e6ebcea2f51f002a1caa71d8c0ae7d6636e782487dcd08deab2d8bb939f07941da4050e30b87a6cdc7ab147aa5d8051",
            16,
        ),
        int(
            "d30fedd00395752d2f21d8944dccc8ab72c6e43e47c1bc0dbe6a29a431e3eab6b71d21782339c42db7307e9b5e803284"
            "45e6d2a6765e9041995106880a15414a35a95eeea2013f1053c080acd6b5761e3d1239057eb7b933c5907324ba08284b"
            "390b4e0c73fd54ad7fba1ae825f9cdc26064d3d1a1d5b9b074bf994f7e2bbb5d1fa8d1589a3972e242fcc6c51d07ed57"
            "e9040f58f6c5675f9f369aa74940e4f733fa5ed603560a5d28ddfd66652e7c882f0bd7b1849ce5674e327a650d58a783",
            16,
        ),
    ),
    (
        int(
            "dde4c7f5233e49e187e25bc045cb81a7ef6ae252c46a1c1e17ef4032e221b8f190c27870e095055472d2854bb2dc21c5"
            "c174731c754325edec528576393715ac07860ece25d72b734345ac036f40ac5003fe3e67c9f766e701add6fae15e37f1"
            "e1ef2d1cdc1954310103835b5352847d82b94fca4b81a7691f1f18a551a4d9ca3e124834e58dd78a5ed7102eb2112e89"
            "c6b4c836368ddc729bb71e1cc2bd3f6226112f8aa0b33ec1318bfa4a9870c5454c72108a611e52a08e8edc968b9785f9",
            16,
        ),
        int(
            "cf140973e953ebaec68f3d4c90f91f4b15ae61e06e9dece1793dac672d6b1dbabd4ec21304da4f5070e50c3b489a783e"
            "cbfc2f6754593e73276fbe18e7ee9bb1a251c1e840a78e22dbf8e76d029ba85cddcb96b7952eca389ed8600a1966c14c"
            "99d63c5234cfc80e4c63f7322bfc84ed0f2e0fa4a4df45c6ecea9ff7239118211fb8e129b8111a0d4edd2aae3ddc8e98"
            "1285c2bbe54b92d39cdabcdda6f99ce89725cc2d6d8068a0ba8d0d178260aaf44f530335b49d7f859dc885b70388dfbf",
            16,
        ),
    ),
)


@functools.cache
def signing_key(number: int = 0, *, exponent: int = 3) -> rsa.RSAPrivateKey:
    """Return one of two keys: the owner's (0), or another person's (1)."""
    p, q = _PRIMES[number]
    d = pow(exponent, -1, math.lcm(p - 1, q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e=exponent, n=p * q),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)
