// The only file that knows Python. Arrays come as C-contiguous NumPy views of torch tensors, with dtype and rank checked at the border; outputs
// are allocated by the caller and written in place. Everything runs without the interpreter lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "correlate.hpp"
#include "isa.hpp"
#include "knn.hpp"
#include "parallel.hpp"
#include "project.hpp"
#include "raster.hpp"
#include "ssim.hpp"
#include "step_ends.hpp"
#include "sweep.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, nb::ssize_t... S> using Array = nb::ndarray<T, nb::shape<S...>, nb::c_contig, nb::device::cpu>;
template <class T, nb::ssize_t... S> using Maybe = std::optional<Array<T, S...>>;

template <class A> auto pointer(const std::optional<A> &array) { return array ? array->data() : nullptr; }

// Python has named the user's mistake by now; this keeps a mistake of our own from touching foreign memory.
void check(bool ok, const char *what) {
    if (!ok) throw std::invalid_argument(std::string("learn2splat._native: inconsistent ") + what);
}

template <class A> bool has_rows(const std::optional<A> &array, size_t C, size_t N) { return !array || (array->shape(0) == C && array->shape(1) == N); }


template <class T>
l2s::ProjectArgs<T> project_args(const Array<const T, -1, 3> &means, const Array<const T, -1, 4> &quats, const Array<const T, -1, 3> &scales,
                                 const Array<const T, -1> &opacities, const Maybe<const T, -1, -1, 3> &sh, const Maybe<const T, -1, 3> &campos,
                                 const Array<const T, -1, 4, 4> &viewmats, const Array<const T, -1, 3, 3> &Ks, int width, int height, double near_plane,
                                 double far_plane, double eps2d, int sh_degree) {
    const size_t N = means.shape(0), C = viewmats.shape(0);
    check(quats.shape(0) == N && scales.shape(0) == N && opacities.shape(0) == N, "Gaussians");
    check(Ks.shape(0) == C && (!campos || campos->shape(0) == C), "cameras");
    check((sh_degree < 0) == !sh && !sh == !campos, "spherical harmonics");
    check(!sh || (sh_degree <= 3 && sh->shape(0) == N && sh->shape(1) >= size_t((sh_degree + 1) * (sh_degree + 1))), "spherical harmonics");
    l2s::ProjectArgs<T> a{};
    a.N = int64_t(N), a.C = int(C), a.width = width, a.height = height;
    a.near_plane = T(near_plane), a.far_plane = T(far_plane), a.eps2d = T(eps2d);
    a.sh_degree = sh_degree, a.sh_stride = sh ? int64_t(sh->shape(1)) * 3 : 0;
    a.means = means.data(), a.quats = quats.data(), a.scales = scales.data(), a.opacities = opacities.data();
    a.sh = pointer(sh), a.campos = pointer(campos), a.viewmats = viewmats.data(), a.Ks = Ks.data();
    return a;
}

template <class T>
void project_forward(Array<const T, -1, 3> means, Array<const T, -1, 4> quats, Array<const T, -1, 3> scales, Array<const T, -1> opacities,
                     Maybe<const T, -1, -1, 3> sh, Maybe<const T, -1, 3> campos, Array<const T, -1, 4, 4> viewmats, Array<const T, -1, 3, 3> Ks, int width,
                     int height, double near_plane, double far_plane, double eps2d, int sh_degree, int num_threads, Array<T, -1, -1, 2> means2d,
                     Array<T, -1, -1> depths, Array<T, -1, -1, 3> conics, Maybe<T, -1, -1> compensated, Maybe<T, -1, -1, 3> colors,
                     Array<int32_t, -1, -1, 2> radii) {
    auto a = project_args<T>(means, quats, scales, opacities, sh, campos, viewmats, Ks, width, height, near_plane, far_plane, eps2d, sh_degree);
    const size_t C = viewmats.shape(0), N = means.shape(0);
    check(means2d.shape(0) == C && means2d.shape(1) == N && depths.shape(0) == C && depths.shape(1) == N && conics.shape(0) == C && conics.shape(1) == N &&
              radii.shape(0) == C && radii.shape(1) == N && has_rows(compensated, C, N) && has_rows(colors, C, N) && !colors == !sh, "outputs");
    a.antialiased = compensated.has_value();
    a.means2d = means2d.data(), a.depths = depths.data(), a.conics = conics.data(), a.compensated = pointer(compensated), a.colors = pointer(colors);
    a.radii = radii.data();
    nb::gil_scoped_release unlocked;
    const int64_t chunks = (a.N + l2s::PROJECT_CHUNK - 1) / l2s::PROJECT_CHUNK;
    l2s::parallel_for(chunks, num_threads, [&](int64_t chunk) {
        const int64_t begin = chunk * l2s::PROJECT_CHUNK, end = begin + l2s::PROJECT_CHUNK;
        l2s::project_table<T>().forward(a, begin, end < a.N ? end : a.N);
    });
}

template <class T>
void project_backward(Array<const T, -1, 3> means, Array<const T, -1, 4> quats, Array<const T, -1, 3> scales, Array<const T, -1> opacities,
                      Maybe<const T, -1, -1, 3> sh, Maybe<const T, -1, 3> campos, Array<const T, -1, 4, 4> viewmats, Array<const T, -1, 3, 3> Ks, int width,
                      int height, double near_plane, double far_plane, double eps2d, int sh_degree, int num_threads, Maybe<T, -1, -1, 3> colors,
                      Array<int32_t, -1, -1, 2> radii, Maybe<const T, -1, -1, 2> v_means2d, Maybe<const T, -1, -1> v_depths,
                      Maybe<const T, -1, -1, 3> v_conics, Maybe<const T, -1, -1> v_compensated, Maybe<const T, -1, -1, 3> v_colors,
                      Array<T, -1, 3> v_means, Array<T, -1, 4> v_quats, Array<T, -1, 3> v_scales, Maybe<T, -1> v_opacities, Maybe<T, -1, -1, 3> v_sh,
                      Maybe<T, -1, -1, 15> v_cameras) {
    auto a = project_args<T>(means, quats, scales, opacities, sh, campos, viewmats, Ks, width, height, near_plane, far_plane, eps2d, sh_degree);
    const size_t C = viewmats.shape(0), N = means.shape(0);
    const int64_t chunks = (a.N + l2s::PROJECT_CHUNK - 1) / l2s::PROJECT_CHUNK;
    check(radii.shape(0) == C && radii.shape(1) == N && has_rows(colors, C, N) && has_rows(v_means2d, C, N) && has_rows(v_depths, C, N) &&
              has_rows(v_conics, C, N) && has_rows(v_compensated, C, N) && has_rows(v_colors, C, N), "incoming gradients");
    check(v_means.shape(0) == N && v_quats.shape(0) == N && v_scales.shape(0) == N && (!v_opacities || v_opacities->shape(0) == N) && !v_sh == !sh && !colors == !sh &&
              (!v_sh || (v_sh->shape(0) == N && v_sh->shape(1) == sh->shape(1))) && has_rows(v_cameras, size_t(chunks), C), "outgoing gradients");
    a.antialiased = v_opacities.has_value();
    a.colors = pointer(colors), a.radii = radii.data();
    l2s::ProjectGrads<T> g{pointer(v_means2d), pointer(v_depths), pointer(v_conics), pointer(v_compensated), pointer(v_colors), v_means.data(), v_quats.data(),
                           v_scales.data(),    pointer(v_opacities), pointer(v_sh),  pointer(v_cameras)};
    nb::gil_scoped_release unlocked;
    l2s::parallel_for(chunks, num_threads, [&](int64_t chunk) { l2s::project_table<T>().backward(a, g, chunk); });
}

template <class T>
l2s::RasterInput<T> raster_input(const Array<const T, -1, -1, 2> &means2d, const Array<const T, -1, -1, 3> &conics, const Array<const T, -1, -1> &opacities,
                                 const Maybe<const T, -1, -1, 3> &colors, const Array<const T, -1, -1> &depths, const Array<int32_t, -1, -1, 2> &radii,
                                 const Maybe<const T, -1, -1> &backgrounds, const Array<T, -1, -1, -1, -1> &renders) {
    const size_t C = means2d.shape(0), N = means2d.shape(1), channels = renders.shape(3);
    check(conics.shape(0) == C && conics.shape(1) == N && depths.shape(0) == C && depths.shape(1) == N && radii.shape(0) == C && radii.shape(1) == N, "projection");
    check((opacities.shape(0) == C || opacities.shape(0) == 1) && opacities.shape(1) == N, "opacities");
    check(!colors || ((colors->shape(0) == C || colors->shape(0) == 1) && colors->shape(1) == N), "colors");
    check(renders.shape(0) == C && (colors ? channels == 3 || channels == 4 : channels == 1), "channels");
    check(has_rows(backgrounds, C, channels), "backgrounds");
    check(renders.shape(1) < (1u << 20) && renders.shape(2) <= size_t(l2s::MAX_WIDTH) && N < (size_t(1) << 31), "image or Gaussian count (too large)");
    l2s::RasterInput<T> in{};
    in.N = int64_t(N), in.C = int(C), in.height = int(renders.shape(1)), in.width = int(renders.shape(2)), in.channels = int(channels);
    in.means2d = means2d.data(), in.conics = conics.data(), in.opacities = opacities.data(), in.opacity_stride = opacities.shape(0) == C && C > 1 ? int64_t(N) : 0;
    in.colors = pointer(colors), in.color_stride = colors && colors->shape(0) == C && C > 1 ? int64_t(3 * N) : 0;
    in.depths = depths.data(), in.radii = radii.data(), in.backgrounds = pointer(backgrounds);
    return in;
}

template <class T>
std::unique_ptr<l2s::RasterState<T>> raster_forward(Array<const T, -1, -1, 2> means2d, Array<const T, -1, -1, 3> conics, Array<const T, -1, -1> opacities,
                                                 Maybe<const T, -1, -1, 3> colors, Array<const T, -1, -1> depths, Array<int32_t, -1, -1, 2> radii,
                                                 Maybe<const T, -1, -1> backgrounds, int num_threads, Array<T, -1, -1, -1, -1> renders, Array<T, -1, -1, -1> alphas) {
    const auto in = raster_input<T>(means2d, conics, opacities, colors, depths, radii, backgrounds, renders);
    check(alphas.shape(0) == renders.shape(0) && alphas.shape(1) == renders.shape(1) && alphas.shape(2) == renders.shape(2), "alphas");
    auto state = std::make_unique<l2s::RasterState<T>>();
    nb::gil_scoped_release unlocked;
    l2s::raster_forward<T>(in, num_threads, *state, renders.data(), alphas.data());
    return state;
}

template <class T>
void raster_backward(const l2s::RasterState<T> &state, Maybe<const T, -1, -1> backgrounds, int num_threads, Array<const T, -1, -1, -1, -1> v_renders,
                     Maybe<const T, -1, -1, -1> v_alphas, Array<T, -1, -1, 2> v_means2d, Array<T, -1, -1, 3> v_conics, Array<T, -1, -1> v_opacities,
                     Maybe<T, -1, -1, 3> v_colors, Maybe<T, -1, -1> v_depths, Maybe<T, -1, -1, 2> absgrad, Maybe<T, -1, -1> v_backgrounds) {
    const size_t C = size_t(state.C), N = size_t(state.N), channels = size_t(state.channels), image[] = {C, size_t(state.height), size_t(state.width)};
    for (int k = 0; k < 3; ++k) check(v_renders.shape(k) == image[k] && (!v_alphas || v_alphas->shape(k) == image[k]), "images");
    check(v_renders.shape(3) == channels && has_rows(backgrounds, C, channels), "channels");
    check(v_means2d.shape(0) == C && v_means2d.shape(1) == N && v_conics.shape(0) == C && v_conics.shape(1) == N && v_opacities.shape(0) == C && v_opacities.shape(1) == N &&
              has_rows(v_colors, C, N) && has_rows(v_depths, C, N) && has_rows(absgrad, C, N) && has_rows(v_backgrounds, C, channels), "gradients");
    const l2s::RasterGrads<T> grads{v_renders.data(),   pointer(v_alphas), pointer(backgrounds), v_means2d.data(),     v_conics.data(),
                                    v_opacities.data(), pointer(v_colors), pointer(v_depths),    pointer(absgrad), pointer(v_backgrounds)};
    nb::gil_scoped_release unlocked;
    l2s::raster_backward<T>(state, num_threads, grads);
}

template <class T>
void photometric_forward(Array<const T, -1, -1, -1, 3> renders, Array<const T, -1, -1, -1, 3> targets, Maybe<const T, -1, -1, -1, 3> weights, double ssim_weight,
                         int num_threads, Array<double, -1> l1, Array<double, -1> ssim, Maybe<T, -1, -1, -1, 3> grads) {
    const int64_t V = int64_t(renders.shape(0)), H = int64_t(renders.shape(1)), W = int64_t(renders.shape(2));
    for (int k = 0; k < 3; ++k) check(targets.shape(k) == renders.shape(k) && (!grads || grads->shape(k) == renders.shape(k)) && (!weights || weights->shape(k) == renders.shape(k)), "images");
    check(l1.shape(0) == renders.shape(0) && ssim.shape(0) == renders.shape(0) && H >= l2s::SSIM_WINDOW && W >= l2s::SSIM_WINDOW, "images");
    nb::gil_scoped_release unlocked;
    l2s::photometric_forward<T>(renders.data(), targets.data(), pointer(weights), V, H, W, ssim_weight, num_threads, l1.data(), ssim.data(), pointer(grads));
}

template <class T> using Flat = nb::ndarray<T, nb::c_contig, nb::device::cpu>;  // of any shape
template <class T> using Flats = std::vector<Flat<T>>;

template <class T> T *rows_of(const Flats<T> &arrays, size_t which, size_t numbers) {
    check(which < arrays.size() && arrays[which].size() == numbers, "Gaussians or state");
    return arrays[which].data();
}

double number(const nb::dict &numbers, const char *name) { return nb::cast<double>(numbers[name]); }

constexpr const char *FIELDS[l2s::GROUPS] = {"means", "quats", "log_scales", "logit_opacities", "sh0", "shN"};

// Fields of Gaussians in the order of FIELDS; old: m, v, spacing; new_moments: m, v; constants: those of NominalConfig, and the limits of nominal.py.
l2s::UpdateArgs update_args(const Flats<const float> &params, const Flats<const float> &grads, const Flats<const float> &old, const Array<const int32_t, -1> &count,
                            const Flats<float> &new_params, const Flats<float> &new_moments, const Array<int32_t, -1> &new_count, const nb::dict &constants) {
    l2s::UpdateArgs a{};
    const size_t N = count.shape(0);
    check(N < (size_t(1) << 31) && new_count.shape(0) == N, "count of Gaussians");
    a.N = int64_t(N), a.count = count.data(), a.new_count = new_count.data();
    for (size_t group = 0; group < l2s::GROUPS; ++group) {
        const size_t numbers = N * size_t(l2s::WIDTHS[group]);
        a.params[group] = rows_of(params, group, numbers), a.grads[group] = rows_of(grads, group, numbers);
        a.new_params[group] = rows_of(new_params, group, numbers), a.step_sizes[group] = float(number(constants, FIELDS[group]));
    }
    a.m = rows_of(old, 0, N * l2s::PARAMS), a.v = rows_of(old, 1, N * l2s::PARAMS), a.spacing = rows_of(old, 2, N);
    a.new_m = rows_of(new_moments, 0, N * l2s::PARAMS), a.new_v = rows_of(new_moments, 1, N * l2s::PARAMS);
    const double beta1 = number(constants, "beta1"), beta2 = number(constants, "beta2");
    a.rest1 = float(1 - beta1), a.rest2 = float(1 - beta2), a.log_beta1 = float(std::log(beta1)), a.log_beta2 = float(std::log(beta2));
    a.max_direction = float(number(constants, "max_direction")), a.reference_spacing = float(number(constants, "reference_spacing"));
    a.min_spacing_ratio = float(number(constants, "min_spacing_ratio")), a.max_spacing_ratio = float(number(constants, "max_spacing_ratio"));
    int limit = 0;
    for (const char *name : {"min_log_scale", "max_log_scale", "max_logit_opacity", "max_sh"}) a.limits[limit++] = float(number(constants, name));
    return a;
}

void nominal_step(Flats<const float> params, Flats<const float> grads, Flats<const float> old, Array<const int32_t, -1> count, Flats<float> new_params,
                  Flats<float> new_moments, Array<int32_t, -1> new_count, nb::dict constants, int num_threads) {
    auto a = update_args(params, grads, old, count, new_params, new_moments, new_count, constants);
    nb::gil_scoped_release unlocked;
    l2s::update_step(a, nullptr, num_threads);
}

// bounds: numbers of AnchoredConfig, and what is known of the run; memory: slow, running, seen_rate, of the state.
l2s::AnchoredArgs anchored_args(size_t N, int neighbours, const nb::dict &bounds, const Array<const int32_t, -1> &read,
                                const Array<const int32_t, -1> &noise, int step, const Array<const int64_t, -1, -1> &candidates, const Flats<const float> &memory,
                                const Array<const int32_t, -1> &last_seen, const Flats<float> &new_memory, const Array<int32_t, -1> &new_last_seen) {
    l2s::AnchoredArgs net{};
    check(neighbours > 0, "configuration");
    const auto bound = [&](const char *name) { return float(number(bounds, name)); };
    net.max_log_growth = bound("max_log_growth"), net.max_log_shrink = bound("max_log_shrink"), net.max_correction = bound("max_correction");
    net.trained_age = bound("settled_age"), net.pull_age = bound("pull_age"), net.trust_age = bound("trust_age");
    net.plenty = bound("plenty"), net.scarcity = bound("scarcity"), net.wideness = bound("wideness");
    net.decay_anisotropy = bound("decay_anisotropy"), net.decay_shN = bound("decay_shN");
    net.num_read = int(read.shape(0)), net.read = read.data(), net.num_noise = int(noise.shape(0)), net.noise = noise.data();
    for (const auto &rows : {read, noise})
        for (size_t i = 0; i < rows.shape(0); ++i) check(rows.data()[i] >= 0 && rows.data()[i] < l2s::FEATURES, "features");
    net.step = step, net.candidates = candidates.data(), net.num_candidates = int(candidates.shape(1));
    net.neighbours = neighbours < net.num_candidates ? neighbours : net.num_candidates;
    check(candidates.shape(0) == N && net.num_candidates > 0 && last_seen.shape(0) == N && new_last_seen.shape(0) == N, "state");
    net.old_last_seen = last_seen.data(), net.new_last_seen = new_last_seen.data();
    const size_t widths[3] = {l2s::CORE, l2s::GROUPS, 1};
    const float **from[3] = {&net.old_slow, &net.old_running, &net.old_seen_rate};
    float **to[3] = {&net.new_slow, &net.new_running, &net.new_seen_rate};
    for (size_t i = 0; i < 3; ++i) *from[i] = rows_of(memory, i, N * widths[i]), *to[i] = rows_of(new_memory, i, N * widths[i]);
    return net;
}

// sizes: width, layers, heads, head_dim, hidden; weights: in the order of AnchoredNetwork.parameters(); latent, said: of the state, the new ones
// missing where the network is not asked; the others as above.
void anchored_step(Flats<const float> params, Flats<const float> grads, Flats<const float> old, Array<const int32_t, -1> count, Flats<float> new_params,
                   Flats<float> new_moments, Array<int32_t, -1> new_count, nb::dict constants, int neighbours, nb::dict bounds,
                   Array<const int32_t, -1> read, Array<const int32_t, -1> noise, int step, Array<const int64_t, -1, -1> candidates, Flats<const float> memory,
                   Array<const int32_t, -1> last_seen, Flats<float> new_memory, Array<int32_t, -1> new_last_seen, int num_threads, std::vector<int> sizes,
                   Array<const float, -1> weights, Array<const float, -1, -1> latent, Maybe<float, -1, -1> new_latent,
                   Array<const float, -1, l2s::GROUPS + l2s::TERMS> said, Maybe<float, -1, l2s::GROUPS + l2s::TERMS> new_said) {
    auto a = update_args(params, grads, old, count, new_params, new_moments, new_count, constants);
    auto net = anchored_args(size_t(a.N), neighbours, bounds, read, noise, step, candidates, memory, last_seen, new_memory, new_last_seen);
    check(sizes.size() == 5 && latent.shape(0) == size_t(a.N) && said.shape(0) == size_t(a.N) && !new_latent == !new_said, "configuration");
    check(!new_latent || (new_latent->shape(0) == latent.shape(0) && new_latent->shape(1) == latent.shape(1) && new_said->shape(0) == size_t(a.N)), "configuration");
    net.speaks = bool(new_latent);
    net.latent = int(latent.shape(1)), net.old_latent = latent.data(), net.new_latent = pointer(new_latent);
    net.old_said = said.data(), net.new_said = pointer(new_said);
    for (const int size : {sizes[0], sizes[1] + 1, sizes[2], sizes[3], sizes[4], net.latent}) check(size > 0 && size < (1 << 16), "configuration");
    net.width = sizes[0], net.layers = sizes[1], net.heads = sizes[2], net.head_dim = sizes[3], net.hidden = sizes[4];
    net.weights = weights.data(), net.num_weights = int64_t(weights.shape(0));
    check(l2s::count_weights(net) == net.num_weights, "weights");
    nb::gil_scoped_release unlocked;
    l2s::update_step(a, &net, num_threads);
}

template <class T> using Outputs = Array<T, -1, l2s::GROUPS + l2s::TERMS>;  // of the network

// Keeps the arrays alive that its second half reads and writes.
struct StepEnds {
    Flats<const float> params, old;
    Flats<float> new_params;
    Array<int32_t, -1> new_count;
    std::unique_ptr<l2s::StepEnds> ends;

    void finish(Outputs<const float> outputs) const {
        check(int64_t(outputs.shape(0)) == ends->seen(), "outputs of the network");
        nb::gil_scoped_release unlocked;
        ends->finish(outputs.data());
    }
    void backward(Outputs<const float> outputs, Flats<const float> v_params, Outputs<float> v_outputs) const {
        check(int64_t(outputs.shape(0)) == ends->seen() && v_outputs.shape(0) == outputs.shape(0), "outputs of the network");
        const float *fields[l2s::GROUPS];
        for (size_t group = 0; group < l2s::GROUPS; ++group) fields[group] = rows_of(v_params, group, params[group].size());
        nb::gil_scoped_release unlocked;
        ends->backward(outputs.data(), fields, v_outputs.data());
    }
};

// The arrays from `rows` on, for what the network reads, have N rows, of which the first are written: one for each seen Gaussian.
std::unique_ptr<StepEnds> step_ends(Flats<const float> params, Flats<const float> grads, Flats<const float> old, Array<const int32_t, -1> count,
                                    Flats<float> new_params, Flats<float> new_moments, Array<int32_t, -1> new_count, nb::dict constants, int neighbours,
                                    nb::dict bounds, Array<const int32_t, -1> read, Array<const int32_t, -1> noise, int step,
                                    Array<const int64_t, -1, -1> candidates, Flats<const float> memory, Array<const int32_t, -1> last_seen,
                                    Flats<float> new_memory, Array<int32_t, -1> new_last_seen, int num_threads, Array<int64_t, -1> rows,
                                    Array<float, -1, -1> features, Array<float, -1, -1> noise_features, Array<float, -1, -1, 3> relations,
                                    Array<int64_t, -1, -1> chosen, Array<bool, -1, -1> exists) {
    const auto a = update_args(params, grads, old, count, new_params, new_moments, new_count, constants);
    const auto net = anchored_args(size_t(a.N), neighbours, bounds, read, noise, step, candidates, memory, last_seen, new_memory, new_last_seen);
    const size_t N = size_t(a.N), k = size_t(net.neighbours);
    check(rows.shape(0) == N && features.shape(0) == N && features.shape(1) == read.shape(0) && noise_features.shape(0) == N &&
              noise_features.shape(1) == noise.shape(0) && relations.shape(0) == N && relations.shape(1) == k && chosen.shape(0) == N && chosen.shape(1) == k &&
              exists.shape(0) == N && exists.shape(1) == k, "inputs of the network");
    auto result = std::make_unique<StepEnds>(StepEnds{params, old, new_params, new_count, nullptr});
    nb::gil_scoped_release unlocked;
    result->ends = std::make_unique<l2s::StepEnds>(
        a, net, l2s::StepEnds::Inputs{rows.data(), features.data(), noise_features.data(), relations.data(), chosen.data(), exists.data()}, num_threads);
    return result;
}

l2s::AttentionArgs attention_args(const Array<const float, -1, -1> &qkv, const Array<const int64_t, -1, -1> &neighbours, const Array<const bool, -1, -1> &exists,
                                  const Maybe<const float, -1, -1, -1> &bias, int heads) {
    const size_t n = qkv.shape(0), k = neighbours.shape(1);
    check(heads > 0 && qkv.shape(1) % size_t(3 * heads) == 0 && neighbours.shape(0) == n && exists.shape(0) == n && exists.shape(1) == k && k > 0 &&
              has_rows(bias, n, k) && (!bias || bias->shape(2) == size_t(heads)), "attention");
    for (size_t i = 0; i < n * k; ++i) check(neighbours.data()[i] >= 0 && neighbours.data()[i] < int64_t(n), "neighbours");
    return {int64_t(n), int(k), heads, int(qkv.shape(1)) / (3 * heads), qkv.data(), pointer(bias), neighbours.data(), exists.data()};
}

void attend(Array<const float, -1, -1> qkv, Array<const int64_t, -1, -1> neighbours, Array<const bool, -1, -1> exists, Maybe<const float, -1, -1, -1> bias, int heads,
            Array<float, -1, -1> mixed, int num_threads) {
    const auto args = attention_args(qkv, neighbours, exists, bias, heads);
    check(mixed.shape(0) == qkv.shape(0) && 3 * mixed.shape(1) == qkv.shape(1), "attention");
    nb::gil_scoped_release unlocked;
    l2s::attend(args, mixed.data(), num_threads);
}

void attend_backward(Array<const float, -1, -1> qkv, Array<const int64_t, -1, -1> neighbours, Array<const bool, -1, -1> exists, Maybe<const float, -1, -1, -1> bias,
                     int heads, Array<const float, -1, -1> v_mixed, Array<float, -1, -1> v_qkv, Maybe<float, -1, -1, -1> v_bias) {
    const auto args = attention_args(qkv, neighbours, exists, bias, heads);
    check(v_mixed.shape(0) == qkv.shape(0) && 3 * v_mixed.shape(1) == qkv.shape(1) && v_qkv.shape(0) == qkv.shape(0) && v_qkv.shape(1) == qkv.shape(1) &&
              !v_bias == !bias && (!bias || (v_bias->size() == bias->size())), "attention");
    nb::gil_scoped_release unlocked;
    l2s::attend_backward(args, v_mixed.data(), v_qkv.data(), pointer(v_bias));
}

// pictures: M photos; neighbours (M, n): rows of them, -1 from where there are no more; warps (M, n, 12); ranges (M, 2): first inverse depth and step.
std::vector<l2s::SweepView> sweep_views(const std::vector<Array<const float, -1, -1>> &pictures, const Array<const int32_t, -1, -1> &neighbours,
                                        const Array<const float, -1, -1, 12> &warps, const Array<const float, -1, 2> &ranges, int best,
                                        const std::vector<Array<float, -1, -1>> &inverse_depths, const std::vector<Array<float, -1, -1>> &scores) {
    const size_t M = pictures.size(), most = neighbours.shape(1);
    check(neighbours.shape(0) == M && warps.shape(0) == M && ranges.shape(0) == M && inverse_depths.size() == M && scores.size() == M, "views");
    check(most <= l2s::SWEEP_MAX_NEIGHBOURS && warps.shape(1) == most && best > 0, "neighbours");
    std::vector<l2s::Picture> all;
    for (const auto &picture : pictures) {
        check(picture.shape(0) > 1 && picture.shape(1) > 1 && picture.size() < (size_t(1) << 31), "pictures");
        all.push_back({picture.data(), int64_t(picture.shape(0)), int64_t(picture.shape(1))});
    }
    std::vector<l2s::SweepView> views(M);
    for (size_t i = 0; i < M; ++i) {
        l2s::SweepView &view = views[i];
        view.photo = all[i];
        for (view.num_neighbours = 0; view.num_neighbours < int(most) && neighbours(i, size_t(view.num_neighbours)) >= 0; ++view.num_neighbours) {
            const size_t n = size_t(view.num_neighbours), other = size_t(neighbours(i, n));
            check(other < M, "neighbours");
            view.neighbours[n] = all[other];
            for (size_t k = 0; k < 12; ++k) view.warps[n][k] = warps(i, n, k);
        }
        view.best = best < view.num_neighbours ? best : view.num_neighbours;
        view.height = int64_t(scores[i].shape(0)), view.width = int64_t(scores[i].shape(1));
        check(inverse_depths[i].shape(0) == scores[i].shape(0) && inverse_depths[i].shape(1) == scores[i].shape(1), "maps");
        view.inverse_depth = inverse_depths[i].data(), view.score = scores[i].data();
        view.first = ranges(i, 0), view.step = ranges(i, 1);
    }
    return views;
}

void sweep(std::vector<Array<const float, -1, -1>> pictures, Array<const int32_t, -1, -1> neighbours, Array<const float, -1, -1, 12> warps,
           Array<const float, -1, 2> ranges, int best, std::vector<Array<float, -1, -1>> inverse_depths, std::vector<Array<float, -1, -1>> scores, int count, int num_threads) {
    const auto views = sweep_views(pictures, neighbours, warps, ranges, best, inverse_depths, scores);
    for (const l2s::SweepView &view : views) check(view.height == view.photo.height && view.width == view.photo.width && count > 0, "maps");
    nb::gil_scoped_release unlocked;
    l2s::sweep(views.data(), int64_t(views.size()), count, num_threads);
}

void refine(std::vector<Array<const float, -1, -1>> pictures, Array<const int32_t, -1, -1> neighbours, Array<const float, -1, -1, 12> warps,
            Array<const float, -1, 2> ranges, int best, std::vector<Array<float, -1, -1>> inverse_depths, std::vector<Array<float, -1, -1>> scores, int num_threads) {
    const auto views = sweep_views(pictures, neighbours, warps, ranges, best, inverse_depths, scores);
    nb::gil_scoped_release unlocked;
    l2s::refine(views.data(), int64_t(views.size()), num_threads);
}

// features, patches: of the photo (height, width, channels), then of each neighbour; warps (N, 12) and sizes (N, 2) of the neighbours.
void correlate(std::vector<Array<const float, -1, -1, -1>> features, std::vector<Array<const float, -1, -1, l2s::CORRELATE_PATCH>> patches,
               Array<const float, -1, 12> warps, Array<const float, -1, 2> sizes, Array<const float, -1, -1, -1> depths, double column_step, double row_step, int num_threads,
               Array<float, l2s::CORRELATE_CHANNELS, -1, -1, -1> volume) {
    const size_t N = warps.shape(0), D = depths.shape(0), H = depths.shape(1), W = depths.shape(2);
    check(N <= size_t(l2s::CORRELATE_MAX_NEIGHBOURS) && sizes.shape(0) == N && features.size() == N + 1 && patches.size() == N + 1, "neighbours");
    check(volume.shape(1) == D && volume.shape(2) == H && volume.shape(3) == W, "volume");
    l2s::CorrelateArgs a{};
    a.depths = depths.data(), a.own = features[0].data(), a.own_patches = patches[0].data(), a.volume = volume.data();
    a.count = int64_t(D), a.height = int64_t(H), a.width = int64_t(W), a.channels = int(features[0].shape(2)), a.num_neighbours = int(N);
    a.column_step = float(column_step), a.row_step = float(row_step);
    check(a.channels > 0 && a.channels % 16 == 0, "channels");
    for (size_t n = 0; n <= N; ++n) {
        check(features[n].shape(2) == size_t(a.channels) && features[n].size() > 0 && patches[n].size() > 0, "features");
        if (n == 0) check(features[0].shape(0) == H && features[0].shape(1) == W && patches[0].shape(0) == H && patches[0].shape(1) == W, "features of the photo");
        if (n == 0) continue;
        a.features[n - 1] = {features[n].data(), int64_t(features[n].shape(0)), int64_t(features[n].shape(1))};
        a.patches[n - 1] = {patches[n].data(), int64_t(patches[n].shape(0)), int64_t(patches[n].shape(1))};
        for (size_t k = 0; k < 12; ++k) a.warps[n - 1][k] = warps(n - 1, k);
        for (size_t k = 0; k < 2; ++k) a.sizes[n - 1][k] = sizes(n - 1, k);
    }
    nb::gil_scoped_release unlocked;
    l2s::correlate(a, num_threads);
}

template <class T> void knn(Array<const T, -1, 3> points, int num_threads, Array<int64_t, -1, -1> indices, Array<T, -1, -1> distances) {
    const size_t N = points.shape(0), k = indices.shape(1);
    check(N < (size_t(1) << 31) && indices.shape(0) == N && distances.shape(0) == N && distances.shape(1) == k && (N == 0 || (k >= 1 && k <= N)), "points");
    nb::gil_scoped_release unlocked;
    l2s::knn<T>(points.data(), int64_t(N), int(k), num_threads, indices.data(), distances.data());
}

template <class T> void bind(nb::module_ &m, const std::string &suffix) {
    const auto name = [&](const char *base) { return std::string(base) + suffix; };
    nb::class_<l2s::RasterState<T>>(m, (suffix == "_f32" ? "RasterState32" : "RasterState64"), "Gaussians and sorted lists that the forward pass leaves for the backward pass.")
        .def_prop_ro("nbytes", &l2s::RasterState<T>::bytes, "Memory it holds, bytes.");
    m.def(name("project_forward").c_str(), &project_forward<T>);
    m.def(name("project_backward").c_str(), &project_backward<T>);
    m.def(name("raster_forward").c_str(), &raster_forward<T>);
    m.def(name("raster_backward").c_str(), &raster_backward<T>);
    m.def(name("photometric_forward").c_str(), &photometric_forward<T>);
    m.def(name("knn").c_str(), &knn<T>);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // an autograd graph that is alive at exit holds a RasterState: no leak
    m.doc() = "Native CPU core of learn2splat. Private: call learn2splat.rasterize and learn2splat.photometric_loss.";
    bind<float>(m, "_f32");
    bind<double>(m, "_f64");
    m.def("nominal_step", &nominal_step);
    m.def("anchored_step", &anchored_step);
    nb::class_<StepEnds>(m, "StepEnds", "A step of `anchored` whose network torch has.")
        .def_prop_ro("seen", [](const StepEnds &self) { return self.ends->seen(); }, "How many Gaussians are seen.")
        .def("finish", &StepEnds::finish)
        .def("backward", &StepEnds::backward);
    m.def("step_ends", &step_ends);
    m.def("attend", &attend);
    m.def("attend_backward", &attend_backward);
    m.def("sweep", &sweep);
    m.def("refine", &refine);
    m.def("correlate", &correlate);
    m.attr("SWEEP_MAX_NEIGHBOURS") = l2s::SWEEP_MAX_NEIGHBOURS;
    m.attr("PROJECT_CHUNK") = l2s::PROJECT_CHUNK;
    m.attr("MAX_WIDTH") = l2s::MAX_WIDTH;
    m.def("isa", &l2s::isa_name, "Instruction set in use: base, avx2 or avx512.");
    m.def("thread_pool", &l2s::pool_description, "Whose threads run the kernels.");
}
