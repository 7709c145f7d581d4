// Scratch memory.
#pragma once
#include <cstdint>
#include <vector>

#include "pool.hpp"

namespace l2s {

// Memory that is handed out piece by piece; the pieces are aligned to cache lines and not initialised. Each comes from the pool by itself, so that it
// fits into what rendering has given back: one large piece would add to the peak of the process.
class Arena {
  public:
    template <class T> void want(T *&place, int64_t count) {
        static_assert(sizeof(T) == 4, "counted in floats");
        pieces_.push_back(pooled<float>(size_t(count)));
        place = reinterpret_cast<T *>(pieces_.back().get());
    }

  private:
    std::vector<Pooled<float>> pieces_;
};

}  // namespace l2s
