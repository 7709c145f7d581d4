// See pool.hpp.
#include "pool.hpp"

#include <map>
#include <mutex>
#include <new>

namespace l2s {
namespace {

constexpr std::align_val_t ALIGNMENT{64};

struct Pool {
    std::mutex mutex;
    std::multimap<size_t, void *> blocks;  // by capacity
    size_t bytes = 0;
};

Pool &pool() {
    static Pool *const shared = new Pool;  // never destroyed: arrays may outlive static destruction
    return *shared;
}

}  // namespace

void *pool_take(size_t bytes, size_t &capacity) {
    {
        std::lock_guard<std::mutex> lock(pool().mutex);
        const auto found = pool().blocks.lower_bound(bytes);
        if (found != pool().blocks.end() && found->first / 2 <= bytes) {  // at most half of it is wasted
            void *memory = found->second;
            capacity = found->first;
            pool().bytes -= capacity;
            pool().blocks.erase(found);
            return memory;
        }
    }
    capacity = bytes + bytes / 8;  // the next render may need a little more
    return ::operator new(capacity, ALIGNMENT);
}

void pool_give(void *memory, size_t capacity) {
    Pool &shared = pool();
    std::lock_guard<std::mutex> lock(shared.mutex);
    while (!shared.blocks.empty() && shared.bytes + capacity > POOL_BYTES) {
        const auto largest = std::prev(shared.blocks.end());
        shared.bytes -= largest->first;
        ::operator delete(largest->second, ALIGNMENT);
        shared.blocks.erase(largest);
    }
    if (capacity > POOL_BYTES) return ::operator delete(memory, ALIGNMENT);
    shared.blocks.emplace(capacity, memory);
    shared.bytes += capacity;
}

}  // namespace l2s
