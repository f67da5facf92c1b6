/* AES-128-GCM over runs of 4096-byte nodes with one key per node, using OpenSSL's EVP: the native implementation of
 * `NodeCipher` in node_cipher.py. This code depends on nothing of the file format except the size of a node.
 *
 * The module is optional: scripts/native.py compiles it if a C compiler and the headers of Python and OpenSSL exist. It
 * uses only Python's stable ABI of 3.11, so one build works for every later Python. The GIL is released while nodes are
 * processed. The buffers stay locked meanwhile, and threads share no data. All calls work unchanged in OpenSSL 3 and 4:
 * https://docs.openssl.org/3.0/man3/EVP_EncryptInit/ (AEAD interface, GCM mode).
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

enum { NODE_SIZE = 4096, KEY_SIZE = 16, MAC_SIZE = 16, ENTRY_SIZE = KEY_SIZE + MAC_SIZE };
enum { DONE = -1, BROKEN = -2 }; /* results of a run that are not the index of a node */

static const unsigned char ZERO_IV[12]; /* each key encrypts exactly one node */
static EVP_CIPHER *aes_128_gcm;

/* Encrypt `count` nodes with new random keys. Store the keys and MACs in `entries`. */
static Py_ssize_t encrypt_run(EVP_CIPHER_CTX *context, const unsigned char *plain, unsigned char *sealed,
                              unsigned char *entries, Py_ssize_t count)
{
    /* One call generates all keys, as a call costs more than its bytes. MACs then replace every second 16 bytes. */
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

/* Decrypt `count` nodes. Return the index of the first node whose MAC does not match. */
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
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL failed to initialize AES-128-GCM");
        return NULL;
    }
    return context;
}

/* Return the number of nodes in `plain`, or -1 with an exception set if the sizes of the buffers do not match. */
static Py_ssize_t count_nodes(const Py_buffer *plain, const Py_buffer *sealed, const Py_buffer *entries)
{
    Py_ssize_t count = plain->len / NODE_SIZE;
    if (plain->len % NODE_SIZE != 0 || sealed->len < plain->len || entries->len != count * ENTRY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "the sizes of the buffers do not match one run of nodes");
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
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL failed to encrypt a node");
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
            OPENSSL_cleanse(plain.buf, (size_t)plain.len); /* never return unauthenticated data */
        Py_END_ALLOW_THREADS
        if (outcome == BROKEN)
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL failed to decrypt a node");
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
     "decrypt(sealed, entries, plain): see NodeCipher.decrypt. Returns the index of the first invalid node, or -1."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_node_cipher", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__node_cipher(void)
{
    aes_128_gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL); /* once: a look-up per node costs a fifth of the time */
    if (aes_128_gcm == NULL) {
        PyErr_SetString(PyExc_ImportError, "this OpenSSL does not support AES-128-GCM");
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddStringConstant(module, "OPENSSL_VERSION", OpenSSL_version(OPENSSL_VERSION)) != 0)
        Py_CLEAR(module);
    return module;
}
