// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * digest.py's pass over struct pages. Memory is gone through once; numpy has to do it twice.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

/* CPUs take a load for one of what was just stored if the lowest 12 bits of the addresses are the same. */
#define ALIAS 4096

/*
 * By bytes, so that alignment and byte order don't matter; compilers make vectors of them. Row by row, so that memory is
 * read in one ascending stream, which CPUs fetch ahead of it.
 */
static inline void __attribute__((always_inline)) fold_rows(const unsigned char *restrict pages, size_t size,
							     unsigned char *restrict any, unsigned char *restrict all,
							     size_t row)
{
	while (size > 0) {
		size_t count = size < row ? size : row;

		for (size_t i = 0; i < count; i++) {
			any[i] |= pages[i];
			all[i] &= pages[i];
		}
		pages += count;
		size -= count;
	}
}

#ifdef __x86_64__
static void __attribute__((target("avx2"))) fold_avx2(const unsigned char *pages, size_t size, unsigned char *any,
						      unsigned char *all, size_t row)
{
	fold_rows(pages, size, any, all, row);
}
#endif

static void fold(const unsigned char *pages, size_t size, unsigned char *any, unsigned char *all, size_t row)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2")) {
		fold_avx2(pages, size, any, all, row);
		return;
	}
#endif
	fold_rows(pages, size, any, all, row);
}

static unsigned char *align(unsigned char *at, size_t alignment)
{
	return at + (-(uintptr_t)at & (alignment - 1));
}

/* Get memory for two rows that are a quarter and a half of ALIAS behind where pages usually begin; it is freed as is. */
static unsigned char *new_rows(size_t row, unsigned char **any, unsigned char **all)
{
	unsigned char *memory = PyMem_Malloc(2 * row + 3 * ALIAS);

	if (!memory) {
		PyErr_NoMemory();
		return NULL;
	}
	*any = align(memory, ALIAS) + ALIAS / 4;
	*all = align(*any + row, ALIAS) + ALIAS / 2;
	return memory;
}

PyDoc_STRVAR(fold_doc, "fold(pages, any, all)\n--\n\n"
	     "Add the bits of struct pages to those that any page has, and leave in the others only what all pages have.\n\n"
	     ":param pages: Struct pages as bytes, contiguous.\n"
	     ":param any: Bytes of one row, to be changed.\n"
	     ":param all: Likewise, of the same length.\n"
	     ":raises ValueError: if the two have different lengths, or none.");

static PyObject *py_fold(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer pages, any, all;
	unsigned char *memory, *any_row, *all_row;
	PyObject *result = NULL;

	if (!PyArg_ParseTuple(args, "y*w*w*:fold", &pages, &any, &all))
		return NULL;
	if (any.len == 0 || any.len != all.len) {
		PyErr_SetString(PyExc_ValueError, "any and all must be rows of one length");
		goto release;
	}
	memory = new_rows(any.len, &any_row, &all_row);
	if (!memory)
		goto release;
	memcpy(any_row, any.buf, any.len);
	memcpy(all_row, all.buf, all.len);
	Py_BEGIN_ALLOW_THREADS
	fold(pages.buf, pages.len, any_row, all_row, any.len);
	Py_END_ALLOW_THREADS
	memcpy(any.buf, any_row, any.len);
	memcpy(all.buf, all_row, all.len);
	PyMem_Free(memory);
	Py_INCREF(Py_None);
	result = Py_None;
release:
	PyBuffer_Release(&pages);
	PyBuffer_Release(&any);
	PyBuffer_Release(&all);
	return result;
}

static PyMethodDef methods[] = {
	{"fold", py_fold, METH_VARARGS, fold_doc},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "_digest",
	.m_size = 0,
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__digest(void)
{
	return PyModule_Create(&module);
}
