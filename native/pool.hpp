// Large arrays that come and go with every render. Fresh memory costs a page fault per 4 kB, often more than the work that it is for, so what is given
// back is kept for the next render, up to POOL_BYTES: more would lie idle while something else has its peak (200 000 Gaussians, 4 views of 640 px).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace l2s {

constexpr size_t POOL_BYTES = size_t(192) << 20;

void *pool_take(size_t bytes, size_t &capacity);  // aligned to 64 bytes, not initialised; capacity: what it holds, to be given back with it
void pool_give(void *memory, size_t capacity);

struct PoolDeleter {
    size_t capacity = 0;
    void operator()(void *memory) const { pool_give(memory, capacity); }
};
template <class X> using Pooled = std::unique_ptr<X[], PoolDeleter>;  // of plain numbers and records

template <class X> Pooled<X> pooled(size_t count) {
    size_t capacity = 0;
    void *memory = pool_take(count * sizeof(X), capacity);
    return Pooled<X>(static_cast<X *>(memory), PoolDeleter{capacity});
}

}  // namespace l2s
