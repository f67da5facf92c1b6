/* The limit for bench/sealing.py: seals and unseals whole files on one core, with as little overhead as the format
 * allows besides AES-128-GCM and the kernel's work. Input is mapped, output is written one group at a time, and the MHT
 * nodes of the whole file stay in memory. It writes genuine encrypted files (format 1.0), and reads 1.0 and 2.0.
 *
 *     sealing_limit seal KEY IN OUT | unseal KEY IN OUT | memory      prints seconds, or for memory bytes per second
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { NODE = 4096, ENTRY = 32, DATA = 96, CHILDREN = 32, HEAD = 3072, METADATA = 3884, METADATA_AT = 58 };
enum { GROUP = DATA * NODE };
typedef unsigned char byte;

static EVP_CIPHER_CTX *sealing, *opening;
static const byte zero_iv[12];

static void need(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void encrypt(const byte *plain, byte *sealed, int size, const byte *key, byte *mac)
{
    int done;
    need(EVP_EncryptInit_ex2(sealing, NULL, key, zero_iv, NULL) && EVP_EncryptUpdate(sealing, sealed, &done, plain, size) &&
         EVP_EncryptFinal_ex(sealing, sealed + done, &done) && EVP_CIPHER_CTX_ctrl(sealing, EVP_CTRL_AEAD_GET_TAG, 16, mac),
         "encrypt");
}

static void decrypt(const byte *sealed, byte *plain, int size, const byte *key, const byte *mac)
{
    int done;
    need(EVP_DecryptInit_ex2(opening, NULL, key, zero_iv, NULL) &&
         EVP_CIPHER_CTX_ctrl(opening, EVP_CTRL_AEAD_SET_TAG, 16, (void *)mac) &&
         EVP_DecryptUpdate(opening, plain, &done, sealed, size) && EVP_DecryptFinal_ex(opening, plain + done, &done),
         "decrypt");
}

/* Encrypt the nodes at `plain` under fresh keys. */
static void encrypt_nodes(const byte *plain, byte *sealed, byte *entries, int count)
{
    need(RAND_priv_bytes(entries, count * ENTRY), "keys");
    for (int i = 0; i < count; i++)
        encrypt(plain + i * NODE, sealed + i * NODE, NODE, entries + i * ENTRY, entries + i * ENTRY + 16);
}

static void derive_key(const byte *wrap_key, const byte *nonce, byte *key)
{
    byte text[104] = {1};
    memcpy(text + 4, "SGX-PROTECTED-FS-METADATA-KEY", 29);
    memcpy(text + 68, nonce, 32);
    text[100] = 0x80;
    size_t size;
    need(EVP_Q_mac(NULL, "CMAC", NULL, "AES-128-CBC", NULL, wrap_key, 16, text, sizeof text, key, 16, &size) != NULL, "CMAC");
}

static byte *map(const char *path, size_t *size)
{
    struct stat status;
    int file = open(path, O_RDONLY);
    need(file >= 0 && fstat(file, &status) == 0, path);
    *size = (size_t)status.st_size;
    byte *content = mmap(NULL, *size, PROT_READ, MAP_SHARED, file, 0);
    need(content != MAP_FAILED, "mmap");
    madvise(content, *size, MADV_SEQUENTIAL);
    close(file);
    return content;
}

static void put(int file, const byte *content, size_t size, size_t offset)
{
    need(pwrite(file, content, size, (off_t)offset) == (ssize_t)size, "write");
}

static size_t mht_at(size_t index) { return (1 + 97 * index) * NODE; }

static byte *slot_of(byte *tree, byte *root, size_t index)
{
    return index ? tree + (index - 1) / CHILDREN * NODE + DATA * ENTRY + (index - 1) % CHILDREN * ENTRY : root;
}

static void seal(const byte *wrap_key, const char *source, const char *destination)
{
    size_t size;
    const byte *plain = map(source, &size);
    need(size > HEAD, "a larger file");
    int file = open(destination, O_WRONLY | O_CREAT | O_EXCL, 0644);
    need(file >= 0, destination);
    size_t nodes = (size - HEAD + NODE - 1) / NODE, groups = (nodes + DATA - 1) / DATA;
    byte *tree = calloc(groups, NODE), *sealed = aligned_alloc(NODE, GROUP), metadata[METADATA] = "limit", last[NODE] = {0};
    for (size_t group = 0; group < groups; group++) {
        size_t offset = HEAD + group * GROUP, left = size - offset;
        int count = (int)(left / NODE < DATA ? left / NODE : DATA), rest = (int)(left < GROUP ? left % NODE : 0);
        byte *entries = tree + group * NODE;
        encrypt_nodes(plain + offset, sealed, entries, count);
        if (rest) {
            memcpy(last, plain + offset + (size_t)count * NODE, (size_t)rest);
            encrypt_nodes(last, sealed + count * NODE, entries + count * ENTRY, 1);
        }
        put(file, sealed, (size_t)(count + (rest > 0)) * NODE, mht_at(group) + NODE);
    }
    for (size_t index = groups; index-- > 0;) {
        encrypt_nodes(tree + index * NODE, sealed, slot_of(tree, metadata + 780, index), 1);
        put(file, sealed, NODE, mht_at(index));
    }
    byte node[NODE] = "GRAFS_PF\1", key[16];
    memcpy(metadata + 772, &size, 8);
    memcpy(metadata + 812, plain, HEAD);
    need(RAND_bytes(node + 10, 32), "nonce");
    derive_key(wrap_key, node + 10, key);
    encrypt(metadata, node + METADATA_AT, METADATA, key, node + 42);
    put(file, node, NODE, 0);
    need(close(file) == 0, "close");
}

static void unseal(const byte *wrap_key, const char *source, const char *destination)
{
    size_t sealed_size, size;
    const byte *sealed = map(source, &sealed_size);
    int file = open(destination, O_WRONLY | O_CREAT | O_EXCL, 0600);
    need(file >= 0, destination);
    byte key[16], metadata[METADATA];
    derive_key(wrap_key, sealed + 10, key);
    decrypt(sealed + METADATA_AT + (sealed[8] == 2), metadata, METADATA, key, sealed + 42);
    memcpy(&size, metadata + 772, 8);
    put(file, metadata + 812, HEAD, 0);
    size_t nodes = (size - HEAD + NODE - 1) / NODE, groups = (nodes + DATA - 1) / DATA;
    byte *tree = malloc(groups * NODE), *plain = aligned_alloc(NODE, GROUP);
    for (size_t group = 0; group < groups; group++) {
        const byte *entry = slot_of(tree, metadata + 780, group), *content = sealed + mht_at(group);
        byte *entries = tree + group * NODE;
        decrypt(content, entries, NODE, entry, entry + 16);
        size_t offset = HEAD + group * GROUP, left = size - offset < GROUP ? size - offset : GROUP;
        for (size_t i = 0; i * NODE < left; i++)
            decrypt(content + (1 + i) * NODE, plain + i * NODE, NODE, entries + i * ENTRY, entries + i * ENTRY + 16);
        put(file, plain, left, offset);
    }
    need(close(file) == 0, "close");
}

static void in_memory(void)
{
    byte *plain = aligned_alloc(NODE, GROUP), *sealed = aligned_alloc(NODE, GROUP), entries[DATA * ENTRY];
    memset(plain, 7, GROUP);
    for (int way = 0; way < 2; way++) {
        double began = now(), bytes = 0;
        for (; now() - began < 0.5; bytes += GROUP)
            if (way == 0)
                encrypt_nodes(plain, sealed, entries, DATA);
            else
                for (int i = 0; i < DATA; i++)
                    decrypt(sealed + i * NODE, plain + i * NODE, NODE, entries + i * ENTRY, entries + i * ENTRY + 16);
        printf("%.0f\n", bytes / (now() - began));
    }
}

int main(int count, char **words)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    sealing = EVP_CIPHER_CTX_new(), opening = EVP_CIPHER_CTX_new();
    need(cipher && EVP_EncryptInit_ex2(sealing, cipher, NULL, NULL, NULL) && EVP_DecryptInit_ex2(opening, cipher, NULL, NULL, NULL),
         "AES-128-GCM");
    if (count == 2 && strcmp(words[1], "memory") == 0) {
        in_memory();
        return 0;
    }
    need(count == 5, "usage: sealing_limit seal|unseal KEY IN OUT");
    byte key[16];
    FILE *file = fopen(words[2], "rb");
    need(file && fread(key, 1, 16, file) == 16, words[2]);
    double began = now();
    (strcmp(words[1], "seal") == 0 ? seal : unseal)(key, words[3], words[4]);
    printf("%.6f\n", now() - began);
    return 0;
}
