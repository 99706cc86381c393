/* write.h: writing GGUF v3. The header goes first, so the type and size of every tensor are known before the first byte of data. */
#ifndef CT_GGUF_WRITE_H
#define CT_GGUF_WRITE_H

#include "gguf/gguf.h"

/* A whole header: metadata and tensor table, padded to where the data begins. Of a tensor its name, n_dims, ne, type and n_bytes count;
 * their data must follow in this order, each by ct_gguf_write_padding. `alignment`: a power of two, as general.alignment says (32
 * where it is absent). */
cactus_status ct_gguf_write_header(ct_new_file *file, const ct_gguf_kv *kv, size_t n_kv, const ct_gguf_tensor *tensors,
                                   size_t n_tensors, uint32_t alignment, cactus_error *err);

/* The zeros behind n_bytes of data. */
cactus_status ct_gguf_write_padding(ct_new_file *file, size_t n_bytes, uint32_t alignment, cactus_error *err);

/* Bytes of such a file. */
uint64_t ct_gguf_written_bytes(const ct_gguf_kv *kv, size_t n_kv, const ct_gguf_tensor *tensors, size_t n_tensors, uint32_t alignment);

#endif
