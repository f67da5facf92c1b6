/* AES-128-GCM over runs of 4096-byte nodes, each under a key of its own, by OpenSSL's EVP: `NodeCipher` of
 * node_cipher.py in native code. Nothing here knows more about encrypted files than the size of a node.
 *
 * It is optional: scripts/native.py compiles it where a C compiler, Python's and OpenSSL's headers are. Only Python's
 * stable ABI of 3.11 is used, so one build serves every later Python. The GIL is released while nodes are worked on;
 * the buffers stay locked meanwhile, and threads share nothing. Calls that need no change in OpenSSL 3 and 4:
 * https://docs.openssl.org/3.0/man3/EVP_EncryptInit/ (AEAD interface, GCM mode).
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

enum { NODE_SIZE = 4096, KEY_SIZE = 16, MAC_SIZE = 16, ENTRY_SIZE = KEY_SIZE + MAC_SIZE };
enum { DONE = -1, BROKEN = -2 }; /* what a run came to, where it is no index of a node */

static const unsigned char ZERO_IV[12]; /* every key encrypts one node once */
static EVP_CIPHER *aes_128_gcm;

/* Encrypt `count` nodes under fresh keys, which go to `entries` with the MACs. */
static Py_ssize_t encrypt_run(EVP_CIPHER_CTX *context, const unsigned char *plain, unsigned char *sealed,
                              unsigned char *entries, Py_ssize_t count)
{
    /* One call for all keys, since a call costs more than its bytes; the MACs then replace every second 16 of them. */
    if (RAND_priv_bytes_ex(NULL, entries, (size_t)(count * ENTRY_SIZE), 0) != 1)
        return BROKEN;
    for (Py_ssize_t index = 0; index < count; index++) {
        unsigned char *entry = entries + index * ENTRY_SIZE;
        unsigned char *node = sealed + index * NODE_SIZE;
        int size, rest;
        if (EVP_EncryptInit_ex2(context, NULL, entry, ZERO_IV, NULL) != 1 ||
            EVP_EncryptUpdate(context, node, &size, plain + index * NODE_SIZE, NODE_SIZE) != 1 ||
            EVP_EncryptFinal_ex(context, node + size, &rest) != 1 || size + rest != NODE_SIZE ||
            EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, MAC_SIZE, entry + KEY_SIZE) != 1)
            return BROKEN;
    }
    return DONE;
}

/* Decrypt `count` nodes. Returns the index of the first one whose MAC does not match. */
static Py_ssize_t decrypt_run(EVP_CIPHER_CTX *context, const unsigned char *sealed, const unsigned char *entries,
                              unsigned char *plain, Py_ssize_t count)
{
    for (Py_ssize_t index = 0; index < count; index++) {
        const unsigned char *entry = entries + index * ENTRY_SIZE;
        unsigned char *node = plain + index * NODE_SIZE;
        int size, rest;
        if (EVP_DecryptInit_ex2(context, NULL, entry, ZERO_IV, NULL) != 1 ||
            EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, MAC_SIZE, (void *)(entry + KEY_SIZE)) != 1 ||
            EVP_DecryptUpdate(context, node, &size, sealed + index * NODE_SIZE, NODE_SIZE) != 1 || size != NODE_SIZE)
            return BROKEN;
        if (EVP_DecryptFinal_ex(context, node + size, &rest) != 1)
            return index;
    }
    return DONE;
}

/* Return a context for the cipher, or NULL with an exception set. */
static EVP_CIPHER_CTX *new_context(int encrypting)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context == NULL || EVP_CipherInit_ex2(context, aes_128_gcm, NULL, NULL, encrypting, NULL) != 1) {
        EVP_CIPHER_CTX_free(context);
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL could not begin AES-128-GCM");
        return NULL;
    }
    return context;
}

/* Return how many nodes the plaintext `plain` has, or -1 with an exception set if the buffers do not fit together. */
static Py_ssize_t count_nodes(const Py_buffer *plain, const Py_buffer *sealed, const Py_buffer *entries)
{
    Py_ssize_t count = plain->len / NODE_SIZE;
    if (plain->len % NODE_SIZE != 0 || sealed->len < plain->len || entries->len != count * ENTRY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "the buffers are not those of one run of nodes");
        return -1;
    }
    return count;
}

static PyObject *encrypt(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer plain, sealed, entries;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*w*w*:encrypt", &plain, &sealed, &entries))
        return NULL;
    Py_ssize_t count = count_nodes(&plain, &sealed, &entries);
    EVP_CIPHER_CTX *context = count < 0 ? NULL : new_context(1);
    if (context != NULL) {
        Py_ssize_t outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = encrypt_run(context, plain.buf, sealed.buf, entries.buf, count);
        EVP_CIPHER_CTX_free(context);
        Py_END_ALLOW_THREADS
        if (outcome == DONE)
            result = Py_NewRef(Py_None);
        else
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL could not encrypt a node");
    }
    PyBuffer_Release(&plain);
    PyBuffer_Release(&sealed);
    PyBuffer_Release(&entries);
    return result;
}

static PyObject *decrypt(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer sealed, entries, plain;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*w*:decrypt", &sealed, &entries, &plain))
        return NULL;
    Py_ssize_t count = count_nodes(&plain, &sealed, &entries);
    EVP_CIPHER_CTX *context = count < 0 ? NULL : new_context(0);
    if (context != NULL) {
        Py_ssize_t outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = decrypt_run(context, sealed.buf, entries.buf, plain.buf, count);
        EVP_CIPHER_CTX_free(context);
        if (outcome != DONE)
            OPENSSL_cleanse(plain.buf, (size_t)plain.len); /* what was not authenticated reaches nobody */
        Py_END_ALLOW_THREADS
        if (outcome == BROKEN)
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL could not decrypt a node");
        else
            result = PyLong_FromSsize_t(outcome);
    }
    PyBuffer_Release(&sealed);
    PyBuffer_Release(&entries);
    PyBuffer_Release(&plain);
    return result;
}

static PyMethodDef methods[] = {
    {"encrypt", encrypt, METH_VARARGS, "encrypt(plain, sealed, entries): see NodeCipher.encrypt."},
    {"decrypt", decrypt, METH_VARARGS,
     "decrypt(sealed, entries, plain): see NodeCipher.decrypt; returns the first node that does not match, or -1."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_node_cipher", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__node_cipher(void)
{
    aes_128_gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL); /* once: a look-up for each node would cost a fifth */
    if (aes_128_gcm == NULL) {
        PyErr_SetString(PyExc_ImportError, "this OpenSSL has no AES-128-GCM");
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddStringConstant(module, "OPENSSL_VERSION", OpenSSL_version(OPENSSL_VERSION)) != 0)
        Py_CLEAR(module);
    return module;
}
