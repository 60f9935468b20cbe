// Lists that gated messages read, and sums by index that do not depend on the number of threads.
//
//     segment_offsets  where each row's entries start in a sorted list
//     sort_columns     entries by column, in their order
//     inverse_index    place of each row in a list of different rows, -1 if it has none
//     index_add        base + rows of `source` summed at `index`; torch's own adds in any order where it is compiled
#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

namespace uip {
namespace {

using at::Tensor;

/// Numbers of entries before each row, (rows + 1), of `row` (M), which lie in [0, rows).
Tensor count_before(const Tensor &row, int64_t rows) {
  Tensor offsets = at::zeros({rows + 1}, row.options());
  int64_t *total = offsets.mutable_data_ptr<int64_t>();
  const int64_t *entry = row.numel() ? row.const_data_ptr<int64_t>() : nullptr;
  for (int64_t k = 0; k < row.numel(); ++k) {
    TORCH_CHECK(entry[k] >= 0 && entry[k] < rows, "an index must be in [0, ", rows, "), got ", entry[k]);
    ++total[entry[k] + 1];
  }
  for (int64_t k = 0; k < rows; ++k) total[k + 1] += total[k];
  return offsets;
}

Tensor segment_offsets(const Tensor &row, const Tensor &rows_like) {
  const auto entries = row.contiguous();
  const int64_t *entry = entries.numel() ? entries.const_data_ptr<int64_t>() : nullptr;
  for (int64_t k = 1; k < entries.numel(); ++k) {
    TORCH_CHECK(entry[k - 1] <= entry[k], "edges and angles must be sorted by centre, got ", entry[k], " after ",
                entry[k - 1]);
  }
  return count_before(entries, rows_like.size(0));
}

std::tuple<Tensor, Tensor> sort_columns(const Tensor &column, const Tensor &rows_like) {
  const auto entries = column.contiguous();
  Tensor offsets = count_before(entries, rows_like.size(0)), order = at::empty_like(entries);
  if (entries.numel() == 0) return {offsets, order};
  const Tensor next_of = offsets.clone();
  int64_t *next = next_of.mutable_data_ptr<int64_t>(), *place = order.mutable_data_ptr<int64_t>();
  const int64_t *entry = entries.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < entries.numel(); ++k) place[next[entry[k]]++] = k;
  return {offsets, order};
}

Tensor inverse_index(const Tensor &index, const Tensor &rows_like) {
  Tensor places = at::full({rows_like.size(0)}, -1, index.options());
  const auto entries = index.contiguous();
  for (int64_t k = 0; k < entries.numel(); ++k) {
    const int64_t row = entries.const_data_ptr<int64_t>()[k];
    TORCH_CHECK(row >= 0 && row < places.size(0), "an index must be in [0, ", places.size(0), "), got ", row);
    places.mutable_data_ptr<int64_t>()[row] = k;
  }
  return places;
}

template <typename T>
void add_rows(const Tensor &index, const Tensor &source, Tensor &out) {
  const int64_t rows = index.numel(), width = source.numel() / rows, limit = out.size(0);
  const int64_t *place = index.const_data_ptr<int64_t>();
  const T *from = source.const_data_ptr<T>();
  T *to = out.mutable_data_ptr<T>();
  for (int64_t k = 0; k < rows; ++k) {
    TORCH_CHECK(place[k] >= 0 && place[k] < limit, "an index must be in [0, ", limit, "), got ", place[k]);
  }
  // threads share columns: every sum is one thread's, in the order of rows
  at::parallel_for(0, width, 16, [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < rows; ++k) {
      T *sum = to + place[k] * width;
      const T *row = from + k * width;
      for (int64_t c = begin; c < end; ++c) sum[c] += row[c];
    }
  });
}

Tensor index_add(const Tensor &base, const Tensor &index, const Tensor &source) {
  Tensor out = base.clone(at::MemoryFormat::Contiguous);
  const auto places = index.contiguous(), rows = source.contiguous();
  TORCH_CHECK(places.dim() == 1 && rows.dim() >= 1 && rows.size(0) == places.size(0) &&
                  rows.sizes().slice(1) == base.sizes().slice(1),
              "index_add must have a row of `base`'s shape for each index, got ", base.sizes(), ", ", places.sizes(),
              " and ", rows.sizes());
  if (rows.numel() == 0) return out;
  AT_DISPATCH_ALL_TYPES(rows.scalar_type(), "index_add", [&] { add_rows<scalar_t>(places, rows, out); });
  return out;
}

Tensor offsets_meta(const Tensor &row, const Tensor &rows_like) {
  return row.new_empty_symint({rows_like.sym_size(0) + 1});
}

std::tuple<Tensor, Tensor> sort_columns_meta(const Tensor &column, const Tensor &rows_like) {
  return {offsets_meta(column, rows_like), column.new_empty_symint(column.sym_sizes())};
}

Tensor inverse_index_meta(const Tensor &index, const Tensor &rows_like) {
  return index.new_empty_symint({rows_like.sym_size(0)});
}

Tensor index_add_meta(const Tensor &base, const Tensor &, const Tensor &) {
  return base.new_empty_symint(base.sym_sizes());
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.def("segment_offsets(Tensor row, Tensor rows_like) -> Tensor");
  library.def("sort_columns(Tensor column, Tensor rows_like) -> (Tensor, Tensor)");
  library.def("inverse_index(Tensor index, Tensor rows_like) -> Tensor");
  library.def("index_add(Tensor base, Tensor index, Tensor source) -> Tensor");
}

TORCH_LIBRARY_IMPL(uip, CPU, library) {
  library.impl("segment_offsets", &segment_offsets);
  library.impl("sort_columns", &sort_columns);
  library.impl("inverse_index", &inverse_index);
  library.impl("index_add", &index_add);
}

TORCH_LIBRARY_IMPL(uip, Meta, library) {
  library.impl("segment_offsets", &offsets_meta);
  library.impl("sort_columns", &sort_columns_meta);
  library.impl("inverse_index", &inverse_index_meta);
  library.impl("index_add", &index_add_meta);
}

}  // namespace
}  // namespace uip
