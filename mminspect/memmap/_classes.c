// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * picture.py's pass over struct pages of 64 bits and little endian: counts what they are. Memory is gone through once;
 * numpy has to do it for each column.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define NR_CODES 64
#define MAX_TYPES 8

/* Classes of picture.py. */
enum { COMPOUND = 3, FILE_PAGE = 4, ANON = 5, HUGETLB = 6, SLAB = 7, RESERVED = 10, CONTINUED = 31, FREE = 32 };

/* The numbers of Python's Fast.spec, in this order. A mask of 0 is of a flag that the kernel doesn't have. */
struct spec {
	uint64_t size;
	uint64_t flags, mapcount, compound; /* offsets */
	uint64_t has_tails, compound_mask;
	uint64_t head, lru, swapbacked, slab, reserved; /* flags */
	uint64_t hugetlb, hugetlb_mask, hugetlb_value;
	uint64_t types;
	struct {
		uint64_t mask, value, code;
	} type[MAX_TYPES];
};

struct found {
	int64_t before; /* index of a head before the first page, 0 if there is none */
	int64_t head;
	unsigned char head_code;
};

static inline uint64_t word(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline uint32_t half(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline int is_free(unsigned char code)
{
	return !code || (code >= FREE && code < NR_CODES);
}

static inline unsigned char larger(unsigned char a, unsigned char b)
{
	return a > b ? a : b;
}

/* What a page is by its own entry. */
static inline unsigned char own_class(const struct spec *s, const unsigned char *page, int has_next)
{
	uint64_t flags = half(page + s->flags);
	uint32_t mapcount = half(page + s->mapcount);
	unsigned char code = 0;

	if (flags & s->head) {
		code = COMPOUND;
		if (s->hugetlb_mask && has_next && (word(page + s->size + s->hugetlb) & s->hugetlb_mask) == s->hugetlb_value)
			code = HUGETLB;
	}
	if (flags & s->lru)
		code = larger(code, flags & s->swapbacked ? ANON : FILE_PAGE);
	if (flags & s->slab)
		code = larger(code, SLAB);
	if ((int32_t)mapcount < -1) {
		for (uint64_t i = 0; i < s->types; i++) {
			if ((mapcount & s->type[i].mask) == s->type[i].value)
				code = larger(code, (unsigned char)s->type[i].code);
		}
	}
	return flags & s->reserved ? larger(code, RESERVED) : code;
}

/* The class of a tail's head. */
static unsigned char class_of_head(const struct spec *s, const unsigned char *pages, const unsigned char *codes,
				   int64_t index, uint64_t info, uint64_t base, struct found *found)
{
	unsigned char code;

	uint64_t address = base + (uint64_t)index * s->size, head = info & ~(uint64_t)1;
	int64_t distance, lead;

	if (s->compound_mask)
		head &= address;
	distance = (int64_t)(address - head);
	if (distance <= 0 || distance % (int64_t)s->size)
		return COMPOUND;
	lead = index - distance / (int64_t)s->size;
	if (lead < 0) {
		if (found->before == 0)
			found->before = lead;
		return lead == found->before ? CONTINUED : COMPOUND;
	}
	if (word(pages + (uint64_t)lead * s->size + s->compound) & 1)
		return COMPOUND;
	/* A damaged tail can lead into a free block, whose pages weren't looked at. */
	code = codes[lead] < FREE ? codes[lead] : own_class(s, pages + (uint64_t)lead * s->size, 1);
	if (lead == index - 1) {
		found->head = lead;
		found->head_code = code;
	}
	return code;
}

/* Tell what the pages from start to end are. */
static void classify(const struct spec *s, const unsigned char *pages, int64_t start, int64_t end, int64_t count,
		     uint64_t base, unsigned char *codes, struct found *found)
{
	uint64_t before = 0;
	unsigned char given = COMPOUND;

	for (int64_t i = start; i < end; i++) {
		const unsigned char *page = pages + (uint64_t)i * s->size;
		uint64_t info = s->has_tails ? word(page + s->compound) : 0;

		if (info & 1) {
			/* Adjacent tails that say the same have one head. */
			if (info != before)
				given = class_of_head(s, pages, codes, i, info, base, found);
			codes[i] = given;
			before = info;
		} else {
			codes[i] = own_class(s, page, i + 1 < count);
			before = 0;
		}
	}
}

PyDoc_STRVAR(count_doc, "count(pages, spec, base, skip, order, edges, free, counts)\n--\n\n"
	     "Count the pages of each class in each cell.\n\n"
	     ":param pages: Struct pages as bytes, contiguous.\n"
	     ":param spec: Numbers of the layout, as bytes.\n"
	     ":param base: Address of the first struct page.\n"
	     ":param skip: Pages by which the first cell begins before the first page.\n"
	     ":param order: Cells have 1 << order pages.\n"
	     ":param edges: From 0 on, edges of what is in free blocks and what isn't, by turns, with the number of pages last.\n"
	     ":param free: The class of what is between them, from 32 on, or 0.\n"
	     ":param counts: A row of 64 numbers for each cell, to be added to.\n"
	     ":return: (index of the head before the first page that tails lead to, or 0; index of the last head whose "
	     "tails may go on behind the last page, or -1; its class)\n"
	     ":raises ValueError: if they don't fit together.");

static PyObject *py_count(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer pages, spec_buffer, edges, freed, counts;
	unsigned long long base;
	Py_ssize_t skip;
	int order, fits;
	struct spec s;
	struct found found = {0, -1, 0};
	unsigned char *codes = NULL;
	int64_t count = 0, nr_free, last, *sums;
	PyObject *result = NULL;

	if (!PyArg_ParseTuple(args, "y*y*Kniy*y*w*:count", &pages, &spec_buffer, &base, &skip, &order, &edges, &freed,
			      &counts))
		return NULL;
	fits = spec_buffer.len == sizeof(s);
	if (fits) {
		memcpy(&s, spec_buffer.buf, sizeof(s));
		fits = s.size >= 8 && s.size <= 4096 && pages.len % s.size == 0 && s.flags <= s.size - 4 &&
		       s.mapcount <= s.size - 4 && s.compound <= s.size - 8 && s.hugetlb <= s.size - 8 &&
		       s.types <= MAX_TYPES && order >= 0 && order < 48 && skip >= 0 && skip < (Py_ssize_t)1 << order;
		count = fits ? pages.len / (Py_ssize_t)s.size : 0;
	}
	for (uint64_t i = 0; fits && i < s.types; i++)
		fits = s.type[i].code < NR_CODES;
	nr_free = freed.len;
	fits = fits && count > 0 && edges.len == (nr_free + 1) * 8 &&
	       counts.len == (((skip + count - 1) >> order) + 1) * NR_CODES * 8;
	last = 0;
	for (int64_t i = 0; fits && i <= nr_free; i++) {
		int64_t edge = (int64_t)word((unsigned char *)edges.buf + 8 * i);

		fits = edge >= last && (i || !edge) && edge <= count &&
		       (i == nr_free || is_free(((unsigned char *)freed.buf)[i]));
		last = edge;
	}
	if (!fits || last != count) {
		PyErr_SetString(PyExc_ValueError, "the arguments don't fit together");
		goto release;
	}
	codes = PyMem_Malloc((size_t)count);
	if (!codes) {
		PyErr_NoMemory();
		goto release;
	}
	sums = counts.buf;
	Py_BEGIN_ALLOW_THREADS
	for (int64_t i = 0; i < nr_free; i++) {
		unsigned char code = ((unsigned char *)freed.buf)[i];
		int64_t start = (int64_t)word((unsigned char *)edges.buf + 8 * i);
		int64_t end = (int64_t)word((unsigned char *)edges.buf + 8 * (i + 1));

		/* The blocks say what their pages are: most of an idle machine needn't be gone through again. */
		if (code)
			memset(codes + start, code, (size_t)(end - start));
		else
			classify(&s, pages.buf, start, end, count, base, codes, &found);
	}
	for (int64_t at = 0; at < count;) {
		int64_t cell = (skip + at) >> order, end = ((cell + 1) << order) - skip;

		end = end < count ? end : count;
		while (at < end) {
			unsigned char code = codes[at];
			int64_t first = at++;

			while (at < end && codes[at] == code)
				at++;
			sums[cell * NR_CODES + code] += at - first;
		}
	}
	Py_END_ALLOW_THREADS
	PyMem_Free(codes);
	result = Py_BuildValue("LLi", (long long)found.before, (long long)found.head, (int)found.head_code);
release:
	PyBuffer_Release(&pages);
	PyBuffer_Release(&spec_buffer);
	PyBuffer_Release(&edges);
	PyBuffer_Release(&freed);
	PyBuffer_Release(&counts);
	return result;
}

static PyMethodDef methods[] = {
	{"count", py_count, METH_VARARGS, count_doc},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "_classes",
	.m_size = 0,
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__classes(void)
{
	return PyModule_Create(&module);
}
