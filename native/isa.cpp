// See isa.hpp.
#include "isa.hpp"

#include <cctype>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace l2s {
namespace {

Isa detect() {
    Isa best = Isa::base;
#if defined(L2S_HAVE_AVX512)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        best = Isa::avx512;
#endif
    if (const char *wanted = std::getenv("LEARN2SPLAT_ISA")) {  // may only lower the choice
        std::string name(wanted);
        for (char &c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        if (name == "base") return Isa::base;
        if (name == "avx2") return best == Isa::base ? Isa::base : Isa::avx2;
        if (name != "avx512") throw std::invalid_argument("LEARN2SPLAT_ISA must be base, avx2 or avx512, got '" + std::string(wanted) + "'");
    }
    return best;
}

}  // namespace

Isa active_isa() {
    static const Isa isa = detect();
    return isa;
}

const char *isa_name() {
    switch (active_isa()) {
        case Isa::avx512: return "avx512";
        case Isa::avx2: return "avx2";
        default: return "base";
    }
}

}  // namespace l2s
