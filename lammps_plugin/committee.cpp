// SPDX-License-Identifier: GPL-2.0-only
#include "committee.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <iomanip>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace uip::lammps {

std::string join(const std::vector<std::string> &names) {
  std::string text;
  for (const auto &name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int num_components = 9;

std::string text_of(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

std::string text_of(const std::optional<SoftNearest> &soft) {
  if (!soft) return "a distance";
  std::ostringstream text;
  text << "soft neighbours (k " << soft->k << ", nearest " << soft->nearest << ", cutoff " << soft->cutoff << ", sigma "
       << soft->sigma << ", tau " << soft->tau << ")";
  return text.str();
}

/// Standard deviation of values[k * stride + offset].
double spread_of(const std::vector<double> &values, size_t count, size_t stride, size_t offset) {
  double mean = 0.0, square = 0.0;
  for (size_t k = 0; k < count; ++k) mean += values[k * stride + offset] / count;
  for (size_t k = 0; k < count; ++k) square += std::pow(values[k * stride + offset] - mean, 2) / count;
  return std::sqrt(square);
}

/// Of each of this rank's atoms.
std::vector<double> deviations_of_forces(const std::vector<MemberResult> &members) {
  std::vector<at::Tensor> forces;
  for (const auto &member : members) forces.push_back(member.forces);
  const auto all = at::stack(forces);
  const auto deviation = (all - all.mean(0)).square().sum(2).mean(0).sqrt().contiguous();
  const double *values = deviation.const_data_ptr<double>();
  return {values, values + deviation.numel()};
}

Spread spread_over_atoms(const std::vector<double> &mine, double num_atoms, const MpiComm &comm) {
  double largest = -infinity, smallest = infinity, sum = 0.0;
  for (const double value : mine) {
    largest = std::max(largest, value);
    smallest = std::min(smallest, value);
    sum += value;
  }
  const auto extremes = comm.max({largest, -smallest});
  return {extremes[0], -extremes[1], comm.sum({sum})[0] / num_atoms};
}

}  // namespace

std::string different_graph(const Metadata &first, const Metadata &other) {
  const std::pair<const char *, std::pair<std::string, std::string>> properties[] = {
      {"cutoff", {text_of(first.cutoff), text_of(other.cutoff)}},
      {"cutoff of bonds", {text_of(first.bond_cutoff), text_of(other.bond_cutoff)}},
      {"criterion for bonds", {text_of(first.soft), text_of(other.soft)}},
      {"dtype", {first.dtype, other.dtype}},
      {"device", {first.device, other.device}},
      {"inputs", {join(first.inputs), join(other.inputs)}},
      {"outputs", {join(first.outputs), join(other.outputs)}}};
  for (const auto &[name, values] : properties) {
    if (values.first == values.second) continue;
    return "the models of a committee share one graph and must have the same " + std::string(name) + ", but it is " +
           values.first + " of '" + first.name + "' and " + values.second + " of '" + other.name +
           "'; use models of one architecture, exported in the same way";
  }
  return "";
}

Tensors mean_of(const std::vector<Tensors> &outputs) {
  if (outputs.size() == 1) return outputs[0];
  Tensors mean;
  for (const auto &[name, first] : outputs[0]) {
    auto sum = first.to(at::kDouble);
    for (size_t k = 1; k < outputs.size(); ++k) sum = sum + outputs[k].at(name);
    mean[name] = sum / static_cast<double>(outputs.size());
  }
  return mean;
}

Deviation deviation_of(const std::vector<MemberResult> &members, const MpiComm &comm) {
  Deviation result;
  result.atoms = deviations_of_forces(members);
  std::vector<double> totals;  // of each member: energy and virial; then the number of atoms
  for (const auto &member : members) {
    totals.push_back(member.energy);
    totals.insert(totals.end(), member.virial.begin(), member.virial.end());
  }
  totals.push_back(static_cast<double>(result.atoms.size()));
  totals = comm.sum(totals);
  const double num_atoms = std::max(totals.back(), 1.0);
  result.energy = spread_of(totals, members.size(), 1 + num_components, 0);
  result.virial = {-infinity, infinity, 0.0};
  for (int component = 0; component < num_components; ++component) {
    const double value = spread_of(totals, members.size(), 1 + num_components, 1 + component) / num_atoms;
    result.virial.max = std::max(result.virial.max, value);
    result.virial.min = std::min(result.virial.min, value);
    result.virial.mean += value * value / num_components;
  }
  result.virial.mean = std::sqrt(result.virial.mean);
  result.force = spread_over_atoms(result.atoms, num_atoms, comm);
  return result;
}

/// One atom after the other: the rank whose first entry is the largest of all gives it up.
std::vector<Deviating> largest(std::vector<Deviating> mine, int count, const MpiComm &comm) {
  std::sort(mine.begin(), mine.end(), [](const auto &a, const auto &b) { return a.second > b.second; });
  std::vector<Deviating> found;
  size_t next = 0;
  for (int k = 0; k < count; ++k) {
    const double value = comm.max({next < mine.size() ? mine[next].second : -infinity})[0];
    if (value == -infinity) break;
    const bool is_mine = next < mine.size() && mine[next].second == value;
    const double id = comm.max({is_mine ? static_cast<double>(mine[next].first) : -1.0})[0];
    if (is_mine && static_cast<double>(mine[next].first) == id) ++next;
    found.emplace_back(static_cast<int64_t>(id), value);
  }
  return found;
}

DeviationFile::DeviationFile(const std::string &path, bool append)
    : file_(std::fopen(path.c_str(), append ? "a" : "w")) {
  if (!file_) {
    throw std::runtime_error("the file of deviations '" + path + "' must be writable, but: " + std::strerror(errno) +
                             "; choose another name after 'file'");
  }
  if (append && std::ftell(file_.get()) > 0) return;
  std::fprintf(file_.get(), "#%11s", "step");
  for (const char *name : {"max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"}) {
    std::fprintf(file_.get(), "%19s", name);
  }
  std::fprintf(file_.get(), "\n");
}

void DeviationFile::write(int64_t step, const Deviation &deviation, double unit, bool again) {
  std::ostringstream line;
  line << std::setw(12) << step << std::scientific << std::setprecision(6);
  for (const auto &spread : {deviation.virial, deviation.force}) {
    for (const double value : {spread.max, spread.min, spread.mean}) line << std::setw(19) << unit * value;
  }
  if (step == last_step_ && (!again || line.str() == last_line_)) return;
  last_step_ = step;
  last_line_ = line.str();
  std::fprintf(file_.get(), "%s\n", last_line_.c_str());
  std::fflush(file_.get());  // tools read it while the run goes on
}

}  // namespace uip::lammps
